// What makes the console quicker where there is JavaScript; every page works without it.
"use strict";

(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const one = (selector, root = document) => root.querySelector(selector);
  document.documentElement.classList.add("scripted");

  // -- what changes by itself: a part of the page is asked for again and replaced ------------------------

  for (const part of all("[data-live]")) {
    const every = Number(part.dataset.every) * 1000;
    const untilDone = "untilDone" in part.dataset;
    const isDone = () => untilDone && one("[data-state]", part)?.dataset.state === "done";
    // What somebody writes, reads bar by bar or marks is left alone; what is open or has the focus stays so.
    const isInUse = () =>
      (part.contains(document.activeElement) && document.activeElement.matches("input, textarea, select, svg")) ||
      all("input.why", part).some((field) => field.value) ||
      (!getSelection().isCollapsed && part.contains(getSelection().anchorNode));
    const replace = (text) => {
      const sameAs = (element) => (other) => other.textContent === element.textContent;
      const held = part.contains(document.activeElement) ? document.activeElement : null;
      const open = all("details", part).map((details) => details.open);
      part.innerHTML = text;
      all("details", part).forEach((details, place) => { details.open = Boolean(open[place]); });
      if (held) all(held.tagName, part).find(sameAs(held))?.focus({ preventScroll: true });
      hear(part);
      const heard = one(`[data-heard="${part.id}"]`);
      const said = all("[data-said]", part).map((element) => element.textContent.trim()).join(" ");
      if (heard && heard.textContent !== said && Date.now() - heardAt > 10000) {
        heard.textContent = said;
        heardAt = Date.now();
      }
    };
    let heardAt = 0;
    let waits = every;

    const look = async () => {
      if (isDone()) return;
      if (!document.hidden && !isInUse()) {
        try {
          const answer = await fetch(part.dataset.live, { headers: { Accept: "text/html" }, redirect: "error" });
          if (!answer.ok) throw new Error(String(answer.status));
          replace(await answer.text());
          part.classList.remove("stale");
          waits = every;
          if (isDone()) { location.reload(); return; }
        } catch {
          part.classList.add("stale");
          waits = Math.min(waits * 2, 30000);
        }
      }
      setTimeout(look, waits);
    };
    if (!isDone()) setTimeout(look, every);
  }

  // -- charts: the bar under the pointer is read out ------------------------------------------------------

  function hear(root) {
    for (const chart of all("[data-chart]", root)) {
      const readout = one("[data-readout]", chart);
      const bars = all("g[data-text]", chart);
      for (const bar of bars) {
        bar.addEventListener("pointerenter", () => { readout.textContent = bar.dataset.text; });
        bar.addEventListener("pointerleave", () => { readout.textContent = ""; });
      }
      const svg = one("svg.bars", chart);
      if (!svg) continue;
      svg.setAttribute("tabindex", "0");
      let place = bars.length;
      svg.addEventListener("keydown", (event) => {
        const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
        if (!step) return;
        event.preventDefault();
        bars[place]?.classList.remove("here");
        place = Math.min(Math.max(place + step, 0), bars.length - 1);
        bars[place].classList.add("here");
        readout.textContent = bars[place].dataset.text;
      });
      svg.addEventListener("blur", () => { bars[place]?.classList.remove("here"); readout.textContent = ""; });
    }
  }
  hear(document);

  one("nav [aria-current=page]")?.scrollIntoView({ block: "nearest", inline: "center" });

  // -- choosing letters -----------------------------------------------------------------------------------

  for (const form of all("[data-chooser]")) {
    const boxes = all("input[name=n]", form);
    const whole = one("[data-all]", form);
    const told = one("[data-chosen]", form);
    const buttons = all(".chosen button", form);
    const tell = () => {
      const count = boxes.filter((box) => box.checked).length;
      told.textContent = count ? `With the ${count} chosen:` : "Choose letters to act on them:";
      for (const button of buttons) button.disabled = count === 0;
      if (whole) { whole.checked = count === boxes.length; whole.indeterminate = count > 0 && count < boxes.length; }
    };
    whole?.addEventListener("change", () => { for (const box of boxes) box.checked = whole.checked; tell(); });
    form.addEventListener("change", tell);
    addEventListener("pageshow", tell);
    tell();
  }

  // -- the theme is set as soon as it is chosen; a form is sent once --------------------------------------

  one("#theme")?.addEventListener("change", (event) => event.target.form.submit());
  for (const form of all("form[method=post]")) {
    form.addEventListener("submit", (event) => {
      if (form.dataset.sent) { event.preventDefault(); return; }
      form.dataset.sent = "yes";
      setTimeout(() => { delete form.dataset.sent; }, 4000);
    });
  }

  // -- the editor's Tab indents; Escape leaves it ---------------------------------------------------------

  for (const area of all("[data-keep-tab]")) {
    let isLeaving = false;
    area.addEventListener("keydown", (event) => {
      if (event.key === "Escape") { isLeaving = true; return; }
      if (event.key === "Tab" && !event.shiftKey && !isLeaving) {
        event.preventDefault();
        area.setRangeText("  ", area.selectionStart, area.selectionEnd, "end");
      }
      isLeaving = false;
    });
  }

  // -- the keyboard ---------------------------------------------------------------------------------------

  const help = one("#help");
  const opener = one("[data-help]");
  if (opener && help) {
    opener.hidden = false;
    opener.addEventListener("click", () => help.showModal());
  }

  let isGoing = false;
  let row = -1;

  const move = (step) => {
    const rows = all("[data-row]");
    if (!rows.length) return;
    rows[row]?.classList.remove("here");
    row = Math.min(Math.max(row + step, 0), rows.length - 1);
    rows[row].classList.add("here");
    one("[data-open]", rows[row])?.focus({ preventScroll: true });
    rows[row].scrollIntoView({ block: "nearest" });
  };

  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || help?.open) return;
    if (event.target.closest("input, textarea, select")) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    if (isGoing) {
      isGoing = false;
      const page = one(`[data-go="${CSS.escape(event.key)}"]`);
      if (page) { event.preventDefault(); page.click(); }
      return;
    }
    const actions = {
      "/": () => one("[data-find]")?.focus(),
      "?": () => help?.showModal(),
      g: () => { isGoing = true; setTimeout(() => { isGoing = false; }, 1500); },
      j: () => move(1),
      k: () => move(-1),
      x: () => one("input[name=n]", all("[data-row]")[row])?.click(),
    };
    if (event.key === "x" && row < 0) return;
    const act = actions[event.key];
    if (act) { event.preventDefault(); act(); }
  });
})();
