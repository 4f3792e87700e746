// Clicks: one event for each, of the most specific type, sent beside what the link does and never instead of it.

import type { CollectorFields } from "./api";
import type { EventType } from "./contract";
import { watchForEffect } from "./dead";
import { describe, findActing, findIn, isPrivate, LINK, pathOf } from "./element";
import { listen } from "./listen";
import { bare } from "./page";
import { addToBurst } from "./rage";
import { runAll } from "./schedule";
import { cut } from "./text";
import { trackHere } from "./view";

const FILES =
  /\.(7z|apk|avi|csv|dmg|docx?|epub|exe|gz|iso|key|midi|mov|mp[34]|mpeg|msi|od[pst]|pdf|pkg|pp[st]x?|rar|rtf|tgz|txt|wav|wm[av]|xlsx?|zip)$/i;

const SAME_MS = 100; // a click on a label is followed by one on its field

/** The URL of a link, undefined if it has none that can be read. An SVG link has its attribute elsewhere. */
function urlOf(link: Element): URL | undefined {
  const href = link.getAttribute("href") ?? link.getAttributeNS("http://www.w3.org/1999/xlink", "href");
  try {
    return new URL(href ?? "", document.baseURI);
  } catch {
    return undefined;
  }
}

function decode(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/** The type of a click on a link, and the fields that only links have. */
function readLink(link: Element): [EventType, CollectorFields] {
  const url = urlOf(link);
  if (!url) return ["click", {}];
  const { protocol, pathname } = url;
  // Without `?subject=` and the like.
  if (protocol === "mailto:") return ["email_click", { click_target_url: protocol + pathname }];
  if (protocol === "tel:" || protocol === "sms:") return ["phone_click", { click_target_url: protocol + pathname }];
  const target = bare(url.href); // null for `blob:`, `data:` and `javascript:`
  const fields = { click_target_url: target };
  const download = link.getAttribute("download");
  if (download !== null || (target && FILES.test(pathname))) {
    const name = download || (target && decode(pathname.slice(pathname.lastIndexOf("/") + 1))) || "";
    return [
      "file_download",
      {
        ...fields,
        file_url: target,
        file_name: cut(name, 255) || null,
        file_extension: /\.(\w{1,10})$/.exec(name)?.[1]?.toLowerCase() ?? null,
      },
    ];
  }
  return [target && url.host !== location.host ? "outbound_link" : "click", fields];
}

let labelled: EventTarget | null = null; // the field of the label that was clicked last
let labelledAt = 0;

function onClick(event: MouseEvent): void {
  const path = pathOf(event);
  const target = path[0];
  const link = findIn(path, LINK);
  // A click made by a script is none of the visitor's, but for a download, which scripts start in this way.
  if (!target || (!event.isTrusted && !link?.hasAttribute("download"))) return;
  const isMiddle = event.type === "auxclick";
  if (isMiddle && (event.button !== 1 || !link)) return;
  if (target === labelled && event.timeStamp - labelledAt < SAME_MS) return;
  const label = findIn(path, "label") as HTMLLabelElement | undefined;
  labelled = label?.control ?? null;
  labelledAt = event.timeStamp;

  const acting = link ?? findActing(path);
  const element = acting ?? target;
  const { pageX, pageY } = pointOf(event, element);
  const facts: CollectorFields = {
    click_x: Math.round(pageX),
    click_y: Math.round(pageY),
    click_count: event.detail || 1,
    ...describe(path, element, acting !== undefined),
  };
  const [type, fields]: [EventType, CollectorFields] = link ? readLink(link) : [acting ? "click" : "heatmap_click", {}];
  trackHere(type, isPrivate(path) ? facts : { ...fields, ...facts });
  if (link) runAll(); // the page may be gone before the next paint
  if (!event.isTrusted || isMiddle) return;
  if (event.detail) addToBurst(path, acting, facts);
  if (acting) watchForEffect(event, path, acting, facts);
}

/** Where the click was. One by the keyboard is in the middle of its element. */
function pointOf(event: MouseEvent, element: Element): { pageX: number; pageY: number } {
  if (event.detail || event.clientX || event.clientY) return event;
  const { left, top, width, height } = element.getBoundingClientRect();
  return { pageX: left + width / 2 + scrollX, pageY: top + height / 2 + scrollY };
}

export const watchClicks = (): void => listen("click auxclick", onClick);
