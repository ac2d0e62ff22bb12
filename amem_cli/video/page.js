"use strict";
const player = document.getElementById("player"), screen_ = document.getElementById("screen");
const clips = [...document.querySelectorAll(".clip:not(:disabled)")];
let current = 0, frame = 0, timer = 0;
const still = matchMedia("(prefers-reduced-motion: reduce)").matches;

function draw() {
  const columns = Number(clips[current].dataset.columns);
  screen_.style.backgroundPosition = `${(100 * frame) / Math.max(columns - 1, 1)}% 0`;
}
function stop() { clearInterval(timer); timer = 0; document.getElementById("pause").textContent = "Play"; }
function start() {
  const { columns, seconds } = clips[current].dataset;
  const step = Math.min(250, Math.max(60, (1000 * Number(seconds || 4)) / Number(columns)));
  clearInterval(timer);
  timer = setInterval(() => { frame = (frame + 1) % Number(columns); draw(); }, step);
  document.getElementById("pause").textContent = "Pause";
}
function play(place) {
  current = (place + clips.length) % clips.length;
  frame = 0;
  const { clip, name, about } = clips[current].dataset;
  screen_.className = clip;
  screen_.setAttribute("role", "img");
  screen_.setAttribute("aria-label", `frames of ${name}`);
  document.getElementById("name").textContent = `${clips[current].closest(".person").querySelector("h3").textContent}: ${name}`;
  document.getElementById("about").textContent = about;
  draw();
  if (still) stop(); else start();
  if (!player.open) player.showModal();
}
clips.forEach((clip, place) => clip.addEventListener("click", () => play(place)));
document.getElementById("pause").addEventListener("click", () => (timer ? stop() : start()));
document.getElementById("before").addEventListener("click", () => play(current - 1));
document.getElementById("after").addEventListener("click", () => play(current + 1));
document.getElementById("close").addEventListener("click", () => player.close());
player.addEventListener("click", (event) => { if (event.target === player) player.close(); });
player.addEventListener("keydown", (event) => {
  if (event.key === "ArrowLeft") play(current - 1);
  if (event.key === "ArrowRight") play(current + 1);
});
player.addEventListener("close", () => { clearInterval(timer); timer = 0; clips[current].focus(); });
document.querySelectorAll(".bar").forEach((bar) => bar.addEventListener("click", () => {
  document.querySelectorAll(".chosen").forEach((one) => one.classList.remove("chosen"));
  const person = document.getElementById(`person-${bar.dataset.person}`);
  person.hidden = false;
  person.classList.add("chosen");
  person.scrollIntoView({ behavior: still ? "auto" : "smooth", block: "nearest" });
  const clip = person.querySelector(`[data-clip="${bar.dataset.clip}"]`);
  if (clip) clip.focus({ preventScroll: true });
}));
const tags = [...document.querySelectorAll(".tag")];
tags.forEach((tag) => tag.addEventListener("click", () => {
  tag.setAttribute("aria-pressed", tag.getAttribute("aria-pressed") === "true" ? "false" : "true");
  const wanted = tags.filter((one) => one.getAttribute("aria-pressed") === "true").map((one) => one.dataset.tag);
  let shown = 0;
  document.querySelectorAll(".person").forEach((person) => {
    const own = person.dataset.tags.split("|");
    person.hidden = !wanted.every((one) => own.includes(one));
    shown += person.hidden ? 0 : 1;
  });
  document.getElementById("shown").textContent = wanted.length ? `${shown} shown` : "";
}));
