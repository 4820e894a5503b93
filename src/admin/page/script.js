// Puts the parts of the page that have changed in the place of the old ones. All HTML is made and
// escaped by adit.
"use strict";
const lost = document.getElementById("lost");
// Nothing is heard for longer than adit takes between two events.
const SILENCE_MS = 6000;
let last = Date.now();

function isBeingRead(section) {
  const selection = document.getSelection();
  return selection && !selection.isCollapsed && section.contains(selection.anchorNode);
}

const source = new EventSource("/events");
source.onmessage = (event) => {
  last = Date.now();
  lost.hidden = true;
  for (const [id, html] of Object.entries(JSON.parse(event.data))) {
    const section = document.getElementById(id);
    if (section && section.dataset.html !== html && !isBeingRead(section)) {
      section.innerHTML = html;
      section.dataset.html = html;
    }
  }
};
setInterval(() => {
  if (Date.now() - last > SILENCE_MS) {
    lost.hidden = false;
    // A browser gives up by itself when it is refused, as after a restart that forgot its login.
    if (source.readyState === EventSource.CLOSED) {
      location.reload();
    }
  }
}, 1000);
