"use strict";

// the frames of one tracklet, in a dialog; the browser keeps the focus inside and gives it back
const sheets = JSON.parse(document.getElementById("sheets").textContent);
const dialog = document.getElementById("frames");
const picture = document.createElement("img");
dialog.append(picture);

document.addEventListener("click", (event) => {
  const strip = event.target.closest("button.strip");
  if (strip) {
    const { tracklet, frames, source } = sheets[strip.dataset.sheet];
    document.getElementById("frames-title").textContent = tracklet;
    document.getElementById("frames-facts").textContent = `${strip.dataset.who}: ${frames}`;
    Object.assign(picture, { src: source, alt: `${frames} of ${tracklet}` });
    dialog.showModal();
    dialog.scrollTop = 0;
  } else if (event.target === dialog) dialog.close(); // outside of its box
});

// paper has nothing to unfold
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((each) => { each.open = true; }));
