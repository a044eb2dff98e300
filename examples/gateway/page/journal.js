// What happened, in words: for who looks away, and for who cannot look. Tokens and epochs are not said, only that a
// stream came, broke, came back or ended.

import { append, element, make } from "./figures.js";

const ENTRIES = 100;

const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", fractionalSecondDigits: 1, hourCycle: "h23" });

/** One line of the journal. */
export function note(text) {
  const now = new Date();
  const time = make("time", { dateTime: now.toISOString(), textContent: clock.format(now) });
  append(element("journal"), make("li", {}, time, " ", make("span", { textContent: text })), ENTRIES);
}

/** What somebody must know who has just pressed a button; empty takes it back. */
export function notice(text) {
  element("notice").textContent = text;
}
