// Clicks: one event for each, of the most specific type, sent beside what the link does and never instead of it.

import type { CollectorFields } from "./api";
import type { EventType } from "./contract";
import { watchForEffect } from "./dead";
import { describe, findActing, findIn, hrefOf, isPrivate, LINK, pathOf } from "./element";
import { listen } from "./listen";
import { bare, isHere } from "./page";
import { addToBurst } from "./rage";
import { runAll } from "./schedule";
import { cut } from "./text";
import { trackHere } from "./view";

const FILES = /\.(7z|avi|csv|dmg|docx?|exe|gz|mov|mp[34]|mpeg|pdf|pp[st]x?|rar|rtf|txt|wav|xlsx?|zip)$/i;

/** The type of a click on a link, and the fields that only links have. */
function readLink(link: Element): [EventType, CollectorFields?] {
  const href = hrefOf(link);
  const target = bare(href); // null for `blob:`, `data:`, `javascript:` and the like
  if (!target) {
    const [scheme, address] = href.trim().split(/[:?]/);
    // Without `?subject=` and the like.
    const type = /^mailto$/i.test(scheme!) ? "email_click" : /^(tel|sms)$/i.test(scheme!) ? "phone_click" : undefined;
    if (type) return [type, { click_target_url: `${scheme!.toLowerCase()}:${address}` }];
  }
  const download = link.getAttribute("download");
  const last = target?.split("/").pop() ?? "";
  if (download === null && !FILES.test(last)) {
    return [target && !isHere(target) ? "outbound_link" : "click", { click_target_url: target }];
  }
  let name = download || last;
  try {
    name = download || decodeURIComponent(last);
  } catch {
    // It stays encoded.
  }
  return [
    "file_download",
    {
      click_target_url: target,
      file_url: target,
      file_name: cut(name, 255) || null,
      file_extension: /\.(\w{1,10})$/.exec(name)?.[1]?.toLowerCase() ?? null,
    },
  ];
}

let labelled: EventTarget | null | undefined; // the field of a label that was clicked: the browser clicks it, too

function onClick(event: MouseEvent): void {
  const { button, clientX, clientY, detail, isTrusted, type } = event;
  const path = pathOf(event);
  const target = path[0];
  const link = findIn(path, LINK);
  // A click made by a script is none of the visitor's, but for a download, which scripts start in this way.
  if (!target || !(isTrusted || link?.matches("[download]"))) return;
  const isMiddle = type === "auxclick";
  if (isMiddle && (button !== 1 || !link)) return;
  const isRepeated = target === labelled;
  const control = (findIn(path, "label") as HTMLLabelElement | undefined)?.control;
  labelled = control === target ? undefined : control;
  // The browser clicks it at once, or not at all.
  setTimeout(() => (labelled = undefined));
  if (isRepeated) return;

  const acting = link ?? findActing(path);
  // A click by the keyboard is in the middle of its element.
  const box = detail || clientX || clientY ? undefined : (acting ?? target).getBoundingClientRect();
  const facts: CollectorFields = {
    click_x: Math.round(scrollX + (box ? box.x + box.width / 2 : clientX)),
    click_y: Math.round(scrollY + (box ? box.y + box.height / 2 : clientY)),
    click_count: detail || 1,
    ...describe(path, acting ?? target, acting !== undefined),
  };
  const [kind, fields] = link ? readLink(link) : [acting ? ("click" as const) : ("heatmap_click" as const)];
  trackHere(kind, { ...facts, ...(!isPrivate(path) && fields) });
  if (link) runAll(); // the page may be gone before the next paint
  if (!isTrusted || isMiddle) return;
  if (detail) addToBurst(path, acting, facts);
  if (acting) watchForEffect(event, path, acting, facts);
}

export const watchClicks = (): void => listen("click auxclick", onClick);
