// Several videos on one clock: the longest leads, and the others are kept within milliseconds of it.
import { signal } from "@preact/signals";

const NEAR = 0.008; // seconds apart that nobody sees
const FAR = 0.15; // seconds apart beyond which a jump is better than a change of speed

export class Clock {
  constructor(fps) {
    this.fps = fps;
    this.videos = [];
    this.playing = signal(false);
    this.time = signal(0);
    this.duration = signal(0);
    this.speed = signal(1);
    this.tick = this.tick.bind(this);
  }

  /** Take over these elements, which load from now on. */
  async take(videos) {
    this.release();
    this.videos = videos;
    const taken = videos;
    for (const v of videos) Object.assign(v, { muted: true, preload: "auto", loop: false, defaultPlaybackRate: this.speed.value });
    await Promise.all(videos.map(loaded));
    if (this.videos !== taken) return false;
    this.videos = videos.filter((v) => v.readyState >= 2);
    this.leader = this.videos.reduce((best, v) => (!best || v.duration > best.duration ? v : best), null);
    this.duration.value = this.leader?.duration ?? 0;
    this.time.value = 0;
    return this.videos.length > 0;
  }

  release() {
    this.pause();
    this.videos = [];
    this.leader = null;
  }

  async play() {
    if (!this.leader || this.playing.value) return;
    this.playing.value = true;
    if (this.leader.currentTime >= this.duration.value - 0.5 / this.fps) await this.seek(0);
    else await this.seek(this.leader.currentTime);
    await this.start();
    requestAnimationFrame(this.tick);
  }

  async start() {
    const going = this.videos.filter((v) => v.currentTime < v.duration - 0.001);
    for (const v of going) v.playbackRate = this.speed.value;
    await Promise.allSettled(going.map((v) => v.play()));
  }

  pause() {
    this.playing.value = false;
    for (const v of this.videos) v.pause();
  }

  toggle() {
    return this.playing.value ? this.pause() : this.play();
  }

  setSpeed(speed) {
    this.speed.value = Math.min(2, Math.max(0.25, speed));
    for (const v of this.videos) v.playbackRate = this.speed.value;
  }

  /** All videos at one moment; while they are on their way, the latest wish is kept. */
  async seek(time) {
    const target = Math.min(Math.max(0, time), Math.max(0, this.duration.value - 0.25 / this.fps));
    this.time.value = target;
    this.wish = target;
    if (this.seeking) return this.seeking;
    this.seeking = (async () => {
      while (this.wish !== null) {
        const next = this.wish;
        this.wish = null;
        await Promise.all(this.videos.map((v) => moved(v, Math.min(next, Math.max(0, v.duration - 0.25 / this.fps)))));
      }
      this.seeking = null;
    })();
    return this.seeking;
  }

  /** Pause and go n frames on; half a frame inside, so that rounding shows the right one. */
  step(n) {
    this.pause();
    return this.seek((this.frame + n + 0.5) / this.fps);
  }

  get frame() {
    return Math.min(this.frames - 1, Math.floor(this.time.value * this.fps + 1e-6));
  }

  get frames() {
    return Math.max(1, Math.round(this.duration.value * this.fps));
  }

  async tick() {
    if (!this.playing.value || !this.leader) return;
    const now = this.leader.currentTime;
    this.time.value = now;
    if (this.leader.ended || now >= this.duration.value - 0.001) {
      for (const v of this.videos) v.pause();
      await this.seek(0);
      if (this.playing.value) await this.start();
    } else {
      for (const v of this.videos) if (v !== this.leader && !v.ended) this.follow(v, now);
    }
    if (this.playing.value) requestAnimationFrame(this.tick);
  }

  follow(video, now) {
    const ahead = video.currentTime - now;
    if (Math.abs(ahead) > FAR && !video.seeking) video.currentTime = now;
    const nudge = Math.abs(ahead) > NEAR ? Math.max(-0.2, Math.min(0.2, -ahead * 3)) : 0;
    const rate = this.speed.value * (1 + nudge);
    if (Math.abs(video.playbackRate - rate) > 0.005) video.playbackRate = rate;
    if (video.paused && now < video.duration - 0.05) video.play().catch(() => {});
  }
}

/** Ends when a video can show its first frame, or never will. */
function loaded(video) {
  if (video.readyState >= 2 || video.error) return undefined;
  return new Promise((resolve) => {
    for (const name of ["loadeddata", "error"]) video.addEventListener(name, resolve, { once: true });
    video.load();
  });
}

function moved(video, time) {
  if (Math.abs(video.currentTime - time) < 0.0005) return undefined;
  return new Promise((resolve) => {
    const done = () => (clearTimeout(late), resolve());
    const late = setTimeout(resolve, 2000);
    video.addEventListener("seeked", done, { once: true });
    video.currentTime = time;
  });
}
