"use strict";
const clock = (s) => `${Math.floor(s / 60)}:${String(Math.floor(s % 60)).padStart(2, "0")}`;
const percent = (share) => `${(100 * share).toFixed(0)} %`;
const players = [...document.querySelectorAll("audio")];

for (const song of document.querySelectorAll(".song")) {
  const player = song.querySelector("audio");
  const stage = song.querySelector(".stage");
  const cursor = song.querySelector(".cursor");
  const duration = Number(stage.dataset.duration);
  const times = JSON.parse(stage.dataset.times);
  const artists = [...song.querySelectorAll("tr[data-curve]")].map((row) => ({
    name: row.dataset.name,
    curve: JSON.parse(row.dataset.curve),
    now: row.querySelector(".now"),
  }));

  const show = () => {
    const at = Math.min(player.currentTime, duration);
    const distances = times.map((time) => Math.abs(time - at));
    const nearest = distances.indexOf(Math.min(...distances));
    cursor.style.left = `${(100 * at) / duration}%`;
    for (const artist of artists) artist.now.textContent = percent(artist.curve[nearest]);
    if (!player.paused) requestAnimationFrame(show);
    return nearest;
  };
  // To screen readers only where playback stands: they would read out every frame.
  const tell = () => {
    const nearest = show();
    const heard = artists.map(({ name, curve }) => `${name} ${percent(curve[nearest])}`);
    stage.setAttribute("aria-valuenow", player.currentTime.toFixed(1));
    stage.setAttribute("aria-valuetext", [clock(player.currentTime), ...heard].join(", "));
  };
  const jump = (to) => {
    player.currentTime = Math.min(Math.max(to, 0), duration);
    tell();
  };
  const follow = (event) => {
    const box = stage.getBoundingClientRect();
    jump((duration * (event.clientX - box.left)) / box.width);
  };

  player.addEventListener("play", () => {
    for (const other of players) if (other !== player) other.pause();
    show();
  });
  for (const change of ["pause", "seeked", "loadedmetadata"]) player.addEventListener(change, tell);
  stage.addEventListener("pointerdown", (event) => {
    stage.setPointerCapture(event.pointerId);
    follow(event);
  });
  stage.addEventListener("pointermove", (event) => event.buttons && follow(event));
  stage.addEventListener("keydown", (event) => {
    const keys = {
      ArrowLeft: () => jump(player.currentTime - 5),
      ArrowRight: () => jump(player.currentTime + 5),
      Home: () => jump(0),
      End: () => jump(duration),
      " ": () => (player.paused ? player.play() : player.pause()),
    };
    if (!(event.key in keys)) return;
    event.preventDefault();
    keys[event.key]();
  });
  tell();
}

// The app gives its frame the height that the page needs.
if (parent !== window) {
  const tell = () => parent.postMessage(document.body.offsetHeight, "*");
  new ResizeObserver(tell).observe(document.body);
}
