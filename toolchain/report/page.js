// Tips at once, and on touch: what the SVG's <title> elements say moves into one box beside the mark.
"use strict";
const box = document.getElementById("tip");
for (const title of document.querySelectorAll(".tip > title")) {
  title.parentElement.dataset.tip = title.textContent;
  title.remove();
}
function show(event) {
  const mark = event.target.closest(".tip");
  box.hidden = !mark;
  if (!mark) return;
  box.textContent = mark.dataset.tip;
  const edge = 8, gap = 14;
  const left = Math.min(event.clientX + gap, innerWidth - box.offsetWidth - edge);
  const below = event.clientY + gap + box.offsetHeight < innerHeight - edge;
  box.style.left = Math.max(edge, left) + "px";
  box.style.top = Math.max(edge, below ? event.clientY + gap : event.clientY - gap - box.offsetHeight) + "px";
}
document.addEventListener("pointerover", show);
document.addEventListener("click", show);
document.addEventListener("scroll", () => { box.hidden = true; }, { passive: true });
// On paper everything is open.
addEventListener("beforeprint", () => { for (const one of document.querySelectorAll("details")) one.open = true; });
