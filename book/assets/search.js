/* Rank the book's sections for a query: extensions/search.py wrote ENTRIES, MiniSearch finds. */
(() => {
  const han = /\p{Script=Han}+/gu;
  const small = new Set("a an and are as at be by do does for how i in is it my of on or the this to was what when why with".split(" "));
  /* words; of Chinese, which has no spaces, each pair of neighbouring signs */
  const tokenize = (text) => [
    ...text.replace(han, " ").split(/[^\p{L}\p{N}]+/u),
    ...(text.match(han) ?? []).flatMap((run) =>
      run.length < 2 ? [run] : [...run].slice(1).map((sign, i) => [...run][i] + sign)),
  ].filter(Boolean);
  const stem = (word) => word.length > 4 ? word.replace(/(?:ies|es|s|ing|ed|ization|isation)$/, "") : word;
  const processTerm = (word) => small.has(word.toLowerCase()) ? null : stem(word.toLowerCase());

  const index = new MiniSearch({ fields: ["title", "words", "page", "text"], tokenize, processTerm });
  index.addAll(ENTRIES.map((entry, id) => ({ id, ...entry })));
  const options = {
    boost: { title: 4, words: 4, page: 2 },
    prefix: (term) => term.length > 2,
    fuzzy: (term) => term.length > 5 ? 0.15 : false,
    weights: { fuzzy: 0.3, prefix: 0.5 },
    boostDocument: (id) => (ENTRIES[id].url.startsWith("api.html#") ? 0.4 : 1),  // chapters first
  };
  const find = (query) => {
    const hits = index.search(query, options), pages = new Map();
    for (const hit of hits) {
      const entry = ENTRIES[hit.id], page = entry.url.split("#")[0];
      if (!pages.has(page)) pages.set(page, []);
      if (pages.get(page).length < 3) pages.get(page).push({ entry, terms: hit.terms });
    }
    return [...pages.values()].slice(0, 12);
  };

  const list = document.getElementById("search-results"), field = document.querySelector(".bd-search-container input");
  const pattern = (terms) => new RegExp(`(${terms.join("|")})`, "iu");  // terms are letters and digits
  const marked = (text, pattern) => {
    const at = Math.max(0, text.search(pattern) - 70), from = at ? text.indexOf(" ", at) + 1 : 0;
    const piece = text.slice(from, from + 200);
    const words = document.createElement("p");
    words.append(...`${from ? "… " : ""}${piece}${from + 200 < text.length ? " …" : ""}`.split(pattern).map((part, i) =>
      i % 2 ? Object.assign(document.createElement("mark"), { textContent: part }) : part));
    return words;
  };
  const show = () => {
    const query = field.value.trim(), found = query ? find(query) : [];
    list.replaceChildren(...found.map((hits) => {
      const item = document.createElement("section");
      const told = Math.max(0, hits.findIndex(({ entry, terms }) => pattern(terms).test(entry.text)));
      hits.forEach(({ entry, terms }, place) => {
        const head = document.createElement(place ? "h3" : "h2");
        head.append(Object.assign(document.createElement("a"), { href: entry.url, textContent: entry.title }));
        if (entry.page) head.append(Object.assign(document.createElement("span"), { textContent: entry.page }));
        item.append(head);
        if (entry.text && place === told) item.append(marked(entry.text, pattern(terms)));
      });
      return item;
    }));
    if (query && !found.length) list.textContent = `Nothing found for “${query}”.`;
    list.setAttribute("aria-live", "polite");
  };
  window.findPages = (query) => find(query).map((hits) => hits.map(({ entry }) => entry.url));

  field.value = new URLSearchParams(location.search).get("q") ?? "";
  field.form.addEventListener("submit", (e) => { e.preventDefault(); show(); });
  field.addEventListener("input", () => {
    history.replaceState(null, "", field.value ? `?q=${encodeURIComponent(field.value)}` : location.pathname);
    show();
  });
  show();
})();
