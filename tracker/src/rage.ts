// Rage clicks: a burst of clicks at one place. Sent once the burst has ended, with the number of its clicks.

import type { CollectorFields } from "./api";
import { findIn, textOf, TEXT_FIELD } from "./element";
import { onLeave, trackHere } from "./view";

const MIN_CLICKS = 3;
const APART_MS = 1000;
const APART_PX = 30;

/** What is clicked again and again on purpose. */
const STEPPER = "[role=spinbutton],[role=slider],[type=range],video,audio";
const STEPPER_TEXT = /^[^\p{L}\d]{1,3}$|^(next|prev|increase|decrease)/iu;

let clicks = 0;
let facts: CollectorFields = {}; // of the last click
let at = 0; // of the last click, in ms since 1970
let timer: ReturnType<typeof setTimeout> | undefined;

/** A click of the visitor's. */
export function addToBurst(path: Element[], acting: Element | undefined, click: CollectorFields): void {
  const now = Date.now();
  const isNear = Math.hypot(click.click_x! - facts.click_x!, click.click_y! - facts.click_y!) < APART_PX;
  if (!isNear || now - at >= APART_MS) endBurst();
  clearTimeout(timer);
  if (findIn(path, `${TEXT_FIELD},${STEPPER}`) || (acting && STEPPER_TEXT.test(textOf(acting).trim()))) return;
  clicks++;
  facts = click;
  at = now;
  timer = setTimeout(endBurst, APART_MS);
}

function endBurst(): void {
  clearTimeout(timer);
  // Three clicks select a paragraph.
  const isSelection = getSelection()?.isCollapsed === false;
  if (clicks >= MIN_CLICKS && !isSelection) trackHere("rage_click", { ...facts, click_count: clicks }, at);
  clicks = 0;
  facts = {};
}

export const watchRage = (): void => onLeave(endBurst);
