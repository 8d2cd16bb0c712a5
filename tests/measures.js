/* How a page reads: what pages.md measures, folds closed, as the browser lays it out. */
() => {
  const page = document.querySelector("article.bd-article");
  const seen = (e) => {
    const fold = e.closest("details:not([open])");
    if (fold && !e.closest("summary")) return false;
    const box = e.getBoundingClientRect();
    return box.height > 0 && box.width > 0;
  };
  const top = (e) => e.getBoundingClientRect().top + scrollY;
  const end = (e) => e.getBoundingClientRect().bottom + scrollY;
  const text = (e) => {
    const copy = e.cloneNode(true);
    copy.querySelectorAll(".katex-html, annotation, script, .headerlink, #claim-card").forEach((x) => x.remove());
    return copy.textContent;
  };
  const words = (e) => text(e).split(/\s+/).filter((word) => /[\p{L}\p{N}]/u.test(word)).length;
  const links = (e) => e.querySelectorAll("a.claim").length;
  const sum = (list, f) => list.reduce((total, e) => total + f(e), 0);

  const exercises = page.querySelector("#exercises");
  const last = exercises ? top(exercises) : end(page);
  const aside = "div.cell_input, figcaption, div.math, script, summary, div.cell_output, table";
  const body = [...page.querySelectorAll("p, li")].filter((e) =>
    seen(e) && !e.closest(aside) && !e.querySelector("p") && top(e) < last);
  const marks = [...page.querySelectorAll("img, table")].filter((e) => seen(e) && top(e) < last)
    .map((e) => [top(e), end(e)]).sort((a, b) => a[0] - b[0]);
  let stretch = 0, from = top(page);
  for (const [start, stop] of [...marks, [last, last]]) {
    stretch = Math.max(stretch, start - from);
    from = Math.max(from, stop);
  }
  const height = page.getBoundingClientRect().height;
  const high = (selector, f = () => true) =>
    sum([...page.querySelectorAll(selector)].filter((e) => seen(e) && f(e)), (e) => e.getBoundingClientRect().height);
  const shown = high("div.cell_input") + high("div.cell_output div.output", (e) => !e.querySelector("img, table"));
  const nWords = sum(body, words);
  return {
    height: Math.round(height),
    words: nWords,
    claims_per_100_words: Math.round(10000 * sum(body, links) / nWords) / 100,
    claims_in_a_paragraph: Math.max(0, ...body.map(links)),
    stretch_without_picture: Math.round(stretch),
    code_and_output: Math.round(1000 * shown / height) / 10,
    first_figure_ends: marks.length ? Math.round(marks[0][1] - top(page)) : null,
    drawings: [...page.querySelectorAll(".tag_drawing img")].filter(seen).length,
    figures: [...page.querySelectorAll("img")].filter(seen).length,
    sections: page.querySelectorAll("h2").length,
    formulas_cut: [...page.querySelectorAll(".katex-display")].filter((e) => seen(e) && e.scrollWidth > e.clientWidth + 1).length,
  };
}
