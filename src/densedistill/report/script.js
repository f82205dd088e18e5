// Sort a table by the column whose heading is clicked; numbers by data-value, best first.
for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
  headings.forEach((heading, column) => {
    heading.querySelector("button").addEventListener("click", () => {
      const descending = heading.getAttribute("aria-sort") === "ascending";
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
      const key = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent;
      const rows = [...table.tBodies[0].rows].sort((a, b) => {
        const [x, y] = [key(a), key(b)];
        const order = isNaN(x) && x !== "inf" ? x.localeCompare(y) : x.replace("inf", "1e99") - y.replace("inf", "1e99");
        return descending ? -order : order;
      });
      table.tBodies[0].append(...rows);
    });
  });
}

// Look closer: the maps of a scene zoom together around the point under the pointer.
for (const strip of document.querySelectorAll(".strip")) {
  let kept = false;
  const aim = (event) => {
    const frame = event.target.closest(".frame");
    if (!frame) return strip.classList.remove("zoomed");
    const box = frame.getBoundingClientRect();
    strip.style.setProperty("--x", `${(((event.clientX - box.left) / box.width) * 100).toFixed(1)}%`);
    strip.style.setProperty("--y", `${(((event.clientY - box.top) / box.height) * 100).toFixed(1)}%`);
    strip.classList.add("zoomed");
  };
  strip.addEventListener("pointermove", (event) => kept || aim(event));
  strip.addEventListener("pointerleave", () => kept || strip.classList.remove("zoomed"));
  strip.addEventListener("click", (event) => {
    kept = !kept;
    strip.classList.toggle("kept", kept);
    aim(event);
  });
}

// A printed page shows what is folded on the screen.
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((d) => (d.open = true)));
