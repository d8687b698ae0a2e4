// Optional: the page is complete without it. Numbers of a point on tap, tables sorted by their headers, open details in print.
const bubble = document.body.appendChild(document.createElement("div"));
bubble.id = "bubble";
bubble.setAttribute("role", "status");
document.addEventListener("click", event => {
  const point = event.target.closest(".tip");
  bubble.textContent = point ? point.firstElementChild.textContent : "";
  bubble.style.left = 0;  // so that its width does not depend on where it was
  if (point) {
    const half = bubble.offsetWidth / 2, edge = document.documentElement.clientWidth - half - 8;
    bubble.style.left = Math.max(half + 8, Math.min(event.pageX, edge)) + "px";
    bubble.style.top = event.pageY - 12 + "px";
  }
});

const number = text => parseFloat(text.replace(/[,+]/g, "").replace("\u2212", "-"));
const compare = (a, b) => {
  const [x, y] = [number(a), number(b)];
  if (isNaN(x) !== isNaN(y)) return isNaN(x) ? 1 : -1;
  return isNaN(x) ? a.localeCompare(b) : x - y;
};
for (const head of document.querySelectorAll("thead th")) {
  const button = document.createElement("button");
  button.append(...head.childNodes);
  head.append(button);
  button.addEventListener("click", () => {
    const up = head.ariaSort !== "ascending", body = head.closest("table").tBodies[0];
    for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const cell = row => row.cells[head.cellIndex].textContent;
    body.append(...[...body.rows].sort((a, b) => (up ? 1 : -1) * compare(cell(a), cell(b))));
  });
}

let closed = [];
addEventListener("beforeprint", () => {
  closed = [...document.querySelectorAll("details:not([open])")];
  closed.forEach(part => { part.open = true; });
});
addEventListener("afterprint", () => closed.forEach(part => { part.open = false; }));
