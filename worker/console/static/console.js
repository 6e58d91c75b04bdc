// Live updates, copy buttons, selection and keyboard shortcuts. Every page works without JavaScript.
"use strict";

(() => {
  const findAll = (selector, root = document) => [...root.querySelectorAll(selector)];
  const find = (selector, root = document) => root.querySelector(selector);
  document.documentElement.classList.add("scripted");

  // -- live parts: fetched again and replaced -------------------------------------------------------------

  for (const part of findAll("[data-refresh-url]")) {
    const every = Number(part.dataset.refreshSeconds) * 1000;
    const untilDone = "untilDone" in part.dataset;
    const isDone = () => untilDone && find("[data-state]", part)?.dataset.state === "done";
    // A part in use is not replaced: somebody types, reads a chart or selects text there.
    const isInUse = () =>
      (part.contains(document.activeElement) && document.activeElement.matches("input, textarea, select, svg")) ||
      findAll("input.reason-input", part).some((field) => field.value) ||
      (!getSelection().isCollapsed && part.contains(getSelection().anchorNode));
    const replace = (text) => {
      const nameOf = (element) => element.getAttribute("aria-label") ?? element.textContent;
      const sameAs = (element) => (other) => nameOf(other) === nameOf(element);
      const held = part.contains(document.activeElement) ? document.activeElement : null;
      const open = findAll("details", part).map((details) => details.open);
      part.innerHTML = text;
      findAll("details", part).forEach((details, place) => { details.open = Boolean(open[place]); });
      if (held) findAll(held.tagName, part).find(sameAs(held))?.focus({ preventScroll: true });
      attachReadouts(part);
      takeFromTabOrder(part);
      findAll("[data-row]")[row]?.classList.add("current");
      const announcer = find(`[data-announces="${part.id}"]`);
      const announcement = findAll("[data-announce]", part).map((element) => element.textContent.trim()).join(" ");
      if (announcer && announcer.textContent !== announcement && Date.now() - announcedAt > 10000) {
        announcer.textContent = announcement;
        announcedAt = Date.now();
      }
    };
    let announcedAt = 0;
    let delay = every;

    const refresh = async () => {
      if (isDone()) return;
      if (!document.hidden && !isInUse()) {
        try {
          const response = await fetch(part.dataset.refreshUrl, { headers: { Accept: "text/html" }, redirect: "error" });
          if (!response.ok) throw new Error(String(response.status));
          replace(await response.text());
          part.classList.remove("stale");
          delay = every;
          if (isDone()) { location.reload(); return; }
        } catch {
          part.classList.add("stale");
          delay = Math.min(delay * 2, 30000);
        }
      }
      setTimeout(refresh, delay);
    };
    if (!isDone()) setTimeout(refresh, every);
  }

  // -- charts: text of the bar under the pointer or the arrow keys ----------------------------------------

  function attachReadouts(root) {
    for (const chart of findAll("[data-chart]", root)) {
      const readout = find("[data-readout]", chart);
      const bars = findAll("g[data-text]", chart);
      for (const bar of bars) {
        bar.addEventListener("pointerenter", () => { readout.textContent = bar.dataset.text; });
        bar.addEventListener("pointerleave", () => { readout.textContent = ""; });
      }
      const svg = find("svg.bars", chart);
      if (!svg) continue;
      svg.setAttribute("tabindex", "0");
      let place = bars.length;
      svg.addEventListener("keydown", (event) => {
        const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
        if (!step) return;
        event.preventDefault();
        bars[place]?.classList.remove("current");
        place = Math.min(Math.max(place + step, 0), bars.length - 1);
        bars[place].classList.add("current");
        readout.textContent = bars[place].dataset.text;
      });
      svg.addEventListener("blur", () => { bars[place]?.classList.remove("current"); readout.textContent = ""; });
    }
  }
  attachReadouts(document);

  // -- copy buttons: the id as it is, where the page shows it shortened or with escapes -------------------

  // In a table the Tab key goes from row to row; "c" copies the id of the current one.
  function takeFromTabOrder(root) {
    for (const button of findAll("[data-row] .copy", root)) button.tabIndex = -1;
  }
  takeFromTabOrder(document);

  // A selection can be copied without permission and without HTTPS, unlike by the clipboard's own interface.
  const copySelected = (text) => {
    const held = document.activeElement;
    const field = document.createElement("textarea");
    field.className = "hidden";
    field.readOnly = true;
    field.value = text;
    document.body.append(field);
    field.select();
    const isCopied = document.execCommand("copy");
    field.remove();
    held?.focus({ preventScroll: true });
    return isCopied;
  };

  const copy = async (button) => {
    const text = decodeURIComponent(button.dataset.copy);
    if (!copySelected(text)) {
      try {
        await navigator.clipboard.writeText(text);
      } catch {
        prompt("Copy it from here:", text);
        return;
      }
    }
    button.dataset.copied = "";
    find("[data-copy-status]").textContent = `Copied ${button.title.replace("Copy ", "")}.`;
    setTimeout(() => { delete button.dataset.copied; find("[data-copy-status]").textContent = ""; }, 2000);
  };
  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-copy]");
    if (button) copy(button);
  });

  find("nav [aria-current=page]")?.scrollIntoView({ block: "nearest", inline: "center" });

  // -- selection of dead letters --------------------------------------------------------------------------

  for (const form of findAll("[data-selection]")) {
    const boxes = findAll("input[name=n]", form);
    const selectAll = find("[data-select-all]", form);
    const selectionText = find("[data-selection-text]", form);
    const buttons = findAll(".selection-actions button", form);
    const update = () => {
      const count = boxes.filter((box) => box.checked).length;
      selectionText.textContent = count ? `${count} selected:` : "Select dead letters to act on them:";
      for (const button of buttons) button.disabled = count === 0;
      if (selectAll) { selectAll.checked = count === boxes.length; selectAll.indeterminate = count > 0 && count < boxes.length; }
    };
    selectAll?.addEventListener("change", () => { for (const box of boxes) box.checked = selectAll.checked; update(); });
    form.addEventListener("change", update);
    addEventListener("pageshow", update);
    update();
  }

  // -- forms: the theme is sent when it is selected, each form once ---------------------------------------

  find("#theme")?.addEventListener("change", (event) => event.target.form.submit());
  for (const form of findAll("form[method=post]")) {
    form.addEventListener("submit", (event) => {
      if (form.dataset.sent) { event.preventDefault(); return; }
      form.dataset.sent = "yes";
      setTimeout(() => { delete form.dataset.sent; }, 4000);
    });
  }

  // -- editor: Tab indents, Escape leaves -----------------------------------------------------------------

  for (const area of findAll("[data-indent-tab]")) {
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

  // -- keyboard shortcuts ---------------------------------------------------------------------------------

  const help = find("#help");
  const opener = find("[data-open-help]");
  if (opener && help) {
    opener.hidden = false;
    opener.addEventListener("click", () => help.showModal());
  }

  let isChoosingPage = false;
  let row = -1;

  const move = (step) => {
    const rows = findAll("[data-row]");
    if (!rows.length) return;
    rows[row]?.classList.remove("current");
    row = Math.min(Math.max(row + step, 0), rows.length - 1);
    rows[row].classList.add("current");
    find("[data-row-link]", rows[row])?.focus({ preventScroll: true });
    rows[row].scrollIntoView({ block: "nearest" });
  };

  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || help?.open) return;
    if (event.target.closest("input, textarea, select")) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    if (isChoosingPage) {
      isChoosingPage = false;
      const page = find(`[data-shortcut="${CSS.escape(event.key)}"]`);
      if (page) { event.preventDefault(); page.click(); }
      return;
    }
    const actions = {
      "/": () => find("[data-search-input]")?.focus(),
      "?": () => help?.showModal(),
      g: () => { isChoosingPage = true; setTimeout(() => { isChoosingPage = false; }, 1500); },
      j: () => move(1),
      k: () => move(-1),
      c: () => find("[data-copy]", findAll("[data-row]")[row] ?? find("main"))?.click(),
      x: () => find("input[name=n]", findAll("[data-row]")[row])?.click(),
    };
    if (event.key === "x" && row < 0) return;
    const act = actions[event.key];
    if (act) { event.preventDefault(); act(); }
  });
})();
