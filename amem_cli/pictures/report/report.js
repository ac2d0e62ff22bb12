"use strict";

// -- the frames of one tracklet, in a dialog; the browser keeps the focus inside and gives it back
const sheets = JSON.parse(document.getElementById("sheets").textContent);
const dialog = document.getElementById("frames");

function showFrames(sheet, who) {
  document.getElementById("frames-title").textContent = sheet.tracklet;
  document.getElementById("frames-facts").textContent = `${who}: ${sheet.frames.length} of ${sheet.of} frames`;
  const items = sheet.frames.map((frame, place) => {
    const picture = document.createElement("span");
    const across = (place % sheet.columns) / Math.max(1, sheet.columns - 1);
    const down = Math.floor(place / sheet.columns) / Math.max(1, sheet.rows - 1);
    picture.setAttribute("role", "img");
    picture.setAttribute("aria-label", `frame ${frame} of ${sheet.of}`);
    picture.style.backgroundImage = `url("${sheet.sheet}")`;
    picture.style.backgroundSize = `${sheet.columns * 100}% ${sheet.rows * 100}%`;
    picture.style.backgroundPosition = `${across * 100}% ${down * 100}%`;
    const item = document.createElement("li");
    item.append(picture, String(frame));
    return item;
  });
  document.getElementById("frames-list").replaceChildren(...items);
  dialog.showModal();
  dialog.scrollTop = 0;
}

document.addEventListener("click", (event) => {
  const strip = event.target.closest("button.strip");
  if (strip) showFrames(sheets[strip.dataset.sheet], strip.dataset.who);
  else if (event.target === dialog) dialog.close(); // outside of its box
});
document.getElementById("frames-close").addEventListener("click", () => dialog.close());

// -- true and predicted frames as a small animation, from the pictures of the tables
const players = [...document.querySelectorAll(".clip")].map((clip) => {
  const sources = (row) => [...clip.querySelectorAll(`tr[data-row="${row}"] img`)].map((image) => image.src);
  const truth = sources("true"); // frame t, then t+1 ...
  const player = clip.querySelector(".player");
  const images = [["true", truth], ["predicted", [truth[0], ...sources("predicted")]]].map(([name, frames]) => {
    const image = document.createElement("img");
    image.alt = `${name} frames, one after another`;
    const box = document.createElement("div");
    box.append(name, image);
    player.append(box);
    return { image, frames };
  });
  player.hidden = false;
  return (time) => {
    const place = Math.min(time % (truth.length + 1), truth.length - 1); // the last frame stays for two beats
    images.forEach(({ image, frames }) => { image.src = frames[place]; });
  };
});
const still = matchMedia("(prefers-reduced-motion: reduce)");
const play = document.getElementById("play");
let time = 0;
let timer = null;

function setPlaying(playing) {
  clearInterval(timer);
  timer = playing ? setInterval(() => { time += 1; players.forEach((show) => show(time)); }, 450) : null;
  play.textContent = playing ? "Pause the animations" : "Play the animations";
}

if (players.length) {
  players.forEach((show) => show(0));
  play.hidden = false;
  play.addEventListener("click", () => setPlaying(timer === null));
  setPlaying(!still.matches);
}

// -- paper has nothing to unfold
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((each) => { each.open = true; }));
