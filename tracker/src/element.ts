// Elements: how a click is described, and what is never told of them.

import type { CollectorFields } from "./api";
import { tidy } from "./text";

export const BUTTON_INPUTS = "input:is([type=button],[type=submit],[type=reset],[type=image])";
const CHOICES = "[type=checkbox],[type=radio],[type=file],[type=color],[type=range]";

const EDITABLE = "[contenteditable]:not([contenteditable=false])";
/** Fields that take text. */
export const TEXT_FIELD = `textarea,input:not(${BUTTON_INPUTS},${CHOICES}),${EDITABLE}`;
/** What nothing is told of, and of what is in it: what the page marks, and what a visitor writes into. */
const PRIVATE = `[data-private],${EDITABLE}`;
/** What no text is told of: what a visitor has written or chosen. */
export const UNTOLD = `${PRIVATE},input,textarea,select`;
/** Links, those of SVG too. */
export const LINK = "a[*|href],area[href]";
const ACTING =
  `${LINK},button,summary,label,select,input:is(${BUTTON_INPUTS},${CHOICES}),` +
  "[role=button],[role=link],[role=tab],[role=switch],[role^=menuitem]";

const LEVELS = 5; // of a selector
const SEEN_TEXT = 400; // characters that are looked at: more than 100, because an address cut in half is not masked

const SEEN_NODES = 500;

/** The elements that an event passed, from its target up, through shadow roots too. */
export const pathOf = (event: Event): Element[] =>
  event.composedPath().filter((node): node is Element => node instanceof Element);

// Not `matches`, which may be a field of a form.
export const findIn = (path: Element[], selector: string): Element | undefined =>
  path.find((element) => element.closest(selector) === element);

/** Where a link leads. One of SVG may have its attribute in a namespace. */
export const hrefOf = (link: Element): string =>
  [...link.attributes].find(({ localName }) => localName === "href")?.value ?? "";

/** Whether an element on the path is private. */
export const isPrivate = (path: Element[]): boolean => findIn(path, PRIVATE) !== undefined;

/** An element, and those that it is in, up to the root of its tree. */
export const pathFrom = (element: Element | null): Element[] =>
  element ? [element, ...pathFrom(element.parentElement)] : [];

/** The element that acts when it is clicked: a control, or what the cursor says is one. */
export function findActing(path: Element[]): Element | undefined {
  const control = findIn(path, ACTING);
  if (control) return control;
  // A cursor is inherited: the outermost element that has it is the one that acts.
  let acting: Element | undefined;
  for (const element of path.slice(0, LEVELS)) {
    if (getComputedStyle(element).cursor !== "pointer") break;
    acting = element;
  }
  return acting;
}

/** A short selector, such as `form#order>div.row>button`. Ids with four or more digits differ for every page. */
function selectorOf(element: Element): string {
  const levels: string[] = [];
  for (let at: Element | null = element; at && levels.length < LEVELS; at = at.parentElement) {
    const { localName, parentElement } = at;
    const id = at.getAttribute("id");
    if (id && !/\d{4}/.test(id)) {
      levels.unshift(`${localName}#${id}`);
      break;
    }
    const [name] = at.classList;
    // Not `children`, which may be a field of a form: how many come along.
    const same = [...(parentElement?.childNodes ?? [])].filter((each) => (each as Element).localName === localName);
    const nth = same.length > 1 ? `:nth-of-type(${same.indexOf(at) + 1})` : "";
    levels.unshift(localName + (name ? `.${name}` : "") + nth);
  }
  return levels.join(">");
}

/** The label or the text of an element that acts, without what a visitor has written or the page marks as private. */
export function textOf(element: Element): string {
  const label = element.getAttribute("aria-label");
  if (label) return label;
  let left = SEEN_NODES;
  let text = element.matches(BUTTON_INPUTS) ? (element as HTMLInputElement).value : "";
  const add = (node: Node): void => {
    if (node instanceof Text) text += ` ${node.data}`;
    else if (!(node instanceof Element && node.matches(`${UNTOLD},script,style`))) {
      for (const child of node.childNodes) if (text.length < SEEN_TEXT && left-- > 0) add(child);
    }
  };
  add(element);
  return text;
}

/** What is told of an element. Of a private one only its tag; of one that does not act, no text. */
export function describe(path: Element[], element: Element, isActing: boolean): CollectorFields {
  const click_element_tag = element.localName;
  if (isPrivate(path)) return { click_element_tag };
  return {
    click_element: tidy(selectorOf(element), 255),
    click_element_tag,
    click_element_id: tidy(element.getAttribute("id"), 128),
    click_element_class: tidy(element.getAttribute("class"), 255),
    click_element_text: isActing ? tidy(textOf(element), 100) : null,
  };
}
