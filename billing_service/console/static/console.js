// The pages work without this. It searches while one types, copies text, and shows what changes.
"use strict";
(() => {
  let latest = 0;
  // Fetch an address of the console, and put its parts that have these ids in the place of those shown.
  async function refresh(address, ids) {
    const mine = ++latest;
    const response = await fetch(address);
    if (!response.ok || response.redirected || mine !== latest) return;
    const page = new DOMParser().parseFromString(await response.text(), "text/html");
    for (const id of ids) {
      const [old, next] = [document.getElementById(id), page.getElementById(id)];
      if (old && next && old.innerHTML !== next.innerHTML) {
        const open = [...old.querySelectorAll("details[open]")].map((each) => each.id);
        old.replaceWith(next);
        open.forEach((each) => each && document.getElementById(each)?.setAttribute("open", ""));
      }
    }
  }
  const search = document.querySelector("form[data-search]");
  if (search) {
    let timer;
    search.addEventListener("input", () => {
      clearTimeout(timer);
      timer = setTimeout(() => {
        const fields = new URLSearchParams([...new FormData(search)].filter(([, value]) => value));
        const address = `${search.getAttribute("action")}?${fields}`;
        history.replaceState(null, "", address);
        refresh(address, [search.dataset.search]);
      }, 150);
    });
  }
  document.addEventListener("click", async (event) => {
    const button = event.target.closest("button[data-copy]");
    if (!button) return;
    await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
    const text = button.textContent;
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = text; }, 1500);
  });
  document.querySelectorAll("button[data-copy]").forEach((button) => { button.hidden = !navigator.clipboard; });
})();
