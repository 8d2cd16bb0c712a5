/* What a lesson needs of scripts. Without them numbers are links to the ledger's rows, and folds are
   opened by hand. */

/* ---- a number's card: what it rests on ------------------------------------------------------ */
(() => {
  const store = document.getElementById("cards");
  if (!store || !("popover" in HTMLElement.prototype)) return;
  const cards = JSON.parse(store.textContent);
  const card = Object.assign(document.createElement("div"), { id: "claim-card", popover: "manual" });
  let link, timer, pinned;

  const made = (tag, given, ...children) => {
    const element = Object.assign(document.createElement(tag), given);
    element.append(...children);
    return element;
  };
  const fill = (a) => {
    const { rows, cell } = cards[a.hash.slice(1)];
    const list = made("dl", {}, ...rows.map(([name, text]) =>
      made("div", {}, made("dt", { textContent: name }), made("dd", { textContent: text }))));
    const ways = made("p", {},
      made("a", { textContent: "the cell that measured it", href: cell, tabIndex: -1 }),
      made("a", { textContent: "in the ledger", href: a.href, tabIndex: -1 }));
    card.replaceChildren(list, ways);
  };
  const hide = () => {
    clearTimeout(timer);
    if (!link) return;
    link.removeAttribute("aria-describedby");
    link.removeAttribute("aria-expanded");
    card.removeAttribute("role");
    if (card.matches(":popover-open")) card.hidePopover();
    link = pinned = undefined;
  };
  const show = (a) => {
    clearTimeout(timer);
    if (a === link && card.matches(":popover-open")) return;
    hide();
    link = a;
    fill(a);
    a.after(card);
    card.showPopover();
    a.setAttribute("aria-describedby", card.id);
    const at = [...a.getClientRects()].pop(), high = card.offsetHeight, wide = card.offsetWidth;
    const above = at.bottom + high + 12 > innerHeight && at.top > high + 60;
    const right = document.documentElement.clientWidth - wide - 8;
    card.style.left = `${Math.max(8, Math.min(at.left - 8, right))}px`;
    card.style.top = `${above ? at.top - high - 6 : at.bottom + 6}px`;
  };
  const pin = (a) => {
    show(a);
    pinned = true;
    a.setAttribute("aria-expanded", "true");
    card.setAttribute("role", "dialog");
    card.setAttribute("aria-label", `Evidence for ${a.textContent}`);
    for (const way of card.querySelectorAll("a")) way.tabIndex = 0;
    card.querySelector("a").focus({ preventScroll: true });
  };
  const soon = (what, wait) => { clearTimeout(timer); timer = setTimeout(what, wait); };
  const outside = ({ target }) => link && target !== link && !card.contains(target) && hide();

  for (const a of document.querySelectorAll("article a.claim")) {
    if (!(a.hash.slice(1) in cards)) continue;
    a.setAttribute("aria-haspopup", "dialog");
    a.addEventListener("pointerenter", (e) => e.pointerType === "mouse" && !pinned && soon(() => show(a), 180));
    a.addEventListener("pointerleave", () => !pinned && soon(hide, 250));
    a.addEventListener("focus", () => a.matches(":focus-visible") && !pinned && show(a));
    a.addEventListener("click", (e) => {
      if (e.ctrlKey || e.metaKey || e.shiftKey || e.button) return;
      e.preventDefault();
      pin(a);
    });
  }
  card.addEventListener("pointerenter", () => clearTimeout(timer));
  card.addEventListener("pointerleave", () => !pinned && soon(hide, 250));
  card.addEventListener("click", (e) => e.target.hash && e.target.pathname === location.pathname && hide());
  document.addEventListener("focusin", outside);
  document.addEventListener("pointerdown", outside);
  document.addEventListener("keydown", (e) => {
    if (e.key !== "Escape" || !link) return;
    const back = link, was = pinned;
    hide();
    if (was) { back.focus({ preventScroll: true }); hide(); }
  });
  addEventListener("scroll", () => link && !pinned && hide(), { passive: true });
})();

/* ---- folds: a link into one opens it; a switch opens all code; paper opens solutions -------- */
(() => {
  const folds = (kind) => document.querySelectorAll(`article details.${kind}`);
  const reach = () => {
    const at = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    let moved = false;
    const closed = "details:not([open])";
    for (let box = at && at.closest(closed); box; box = box.parentElement.closest(closed)) box.open = moved = true;
    if (moved) at.scrollIntoView();
  };

  const button = document.getElementById("show-code");
  const set = (on) => {
    for (const fold of folds("checks")) fold.open = on;
    button.setAttribute("aria-pressed", on);
  };
  if (button && folds("checks").length) {
    button.hidden = false;
    if (localStorage.getItem("code") === "shown") set(true);
    button.addEventListener("click", () => {
      const on = button.getAttribute("aria-pressed") !== "true";
      localStorage.setItem("code", on ? "shown" : "folded");
      set(on);
    });
  }
  addEventListener("hashchange", reach);
  reach();

  let closed = [];
  addEventListener("beforeprint", () => {
    closed = [...folds("solution")].filter((fold) => !fold.open);
    for (const fold of closed) fold.open = true;
  });
  addEventListener("afterprint", () => { for (const fold of closed) fold.open = false; });
})();

/* ---- a figure enlarges on a tap ------------------------------------------------------------- */
(() => {
  const images = document.querySelectorAll("article .cell_output img");
  if (!images.length) return;
  const dialog = document.createElement("dialog");
  dialog.id = "enlarged";
  const open = (image) => {
    const large = Object.assign(document.createElement("img"), { src: image.currentSrc || image.src, alt: image.alt });
    const close = Object.assign(document.createElement("button"), { type: "button", textContent: "Close" });
    close.addEventListener("click", () => dialog.close());
    dialog.setAttribute("aria-label", "The figure, enlarged");
    dialog.replaceChildren(close, large);
    document.body.append(dialog);
    dialog.showModal();
  };
  dialog.addEventListener("click", (e) => e.target === dialog && dialog.close());
  for (const image of images) image.addEventListener("click", () => open(image));
})();
