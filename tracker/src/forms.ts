// Forms: begun, fields left, errors, sent, abandoned. Never a value.

import type { CollectorFields } from "./api";
import type { EventType } from "./contract";
import { BUTTON_INPUTS, isPrivate, pathFrom, pathOf } from "./element";
import { listen } from "./listen";
import { runAll, soon } from "./schedule";
import { tidy } from "./text";
import { onLeave, trackHere } from "./view";

const FIELDS = "input,select,textarea";
const NOT_FILLED_IN = `${BUTTON_INPUTS},:not(${FIELDS}),[type=hidden],:disabled`;
const MAX_FIELDS = 200; // that are looked at for the completion rate: a form of thousands would take too long
const AGAIN_MS = 2000; // the same error of a field is told once until so long without errors
const MAX_ERRORS = 20; // that are told in this time

type Field = HTMLInputElement | HTMLSelectElement | HTMLTextAreaElement;
type Begun = { at: number; last: Field; isHandedOver?: boolean };

const begun = new Map<HTMLFormElement, Begun>();
const errors = new Map<Field, string>(); // told within AGAIN_MS
let forgetting: ReturnType<typeof setTimeout> | undefined;

let used: Field | undefined; // the field with the focus, once something was put in
let focusedAt = 0;

/** The controls of a form. A field called "elements" hides that property. */
const controlsOf = (form: HTMLFormElement): Iterable<Field> =>
  Reflect.get(HTMLFormElement.prototype, "elements", form) as unknown as Iterable<Field>;

/** Percent of the fields that have a value. The radio buttons of a name are one field. */
function completion(form: HTMLFormElement): number | null {
  const filled: Record<string, boolean> = {};
  let at = 0;
  for (const field of controlsOf(form)) {
    if (field.matches(NOT_FILLED_IN)) continue;
    if (++at > MAX_FIELDS) break;
    const isChoice = field.matches("[type=checkbox],[type=radio]");
    const group = field.type === "radio" ? `radio ${field.name}` : at;
    filled[group] ||= isChoice ? (field as HTMLInputElement).checked : !!field.value;
  }
  const all = Object.values(filled);
  return all.length ? Math.round((all.filter(Boolean).length / all.length) * 100) : null;
}

/** Send an event of a form, and of a field. A field called "id" hides that property, so attributes are read. */
function tell(type: EventType, form: HTMLFormElement, field: Field | undefined, fields: CollectorFields = {}): void {
  const named = (element: Element, ...names: string[]): string | null =>
    tidy(names.map((name) => element.getAttribute(name)).find(Boolean), 128);
  trackHere(type, {
    form_id: named(form, "id", "name") ?? `form:${[...document.forms].indexOf(form)}`,
    form_name: named(form, "name", "aria-label"),
    ...(field && { field_name: named(field, "name", "id"), field_type: field.type }),
    ...fields,
  });
}

const since = (at: number): number => Math.round(performance.now() - at) / 1000;

/** Hear events of fields in forms, unless they are private. */
function listenToFields(types: string, callback: (field: Field, form: HTMLFormElement) => void): void {
  listen(types, (event: Event) => {
    const path = pathOf(event);
    const field = path[0] as Field | undefined;
    // A field may be outside its form.
    if (field?.matches(FIELDS) && field.form && !isPrivate([...path, ...pathFrom(field.form)])) {
      callback(field, field.form);
    }
  });
}

function onInput(field: Field, form: HTMLFormElement): void {
  used = field;
  const known = begun.get(form);
  begun.set(form, { at: known?.at ?? performance.now(), last: field });
  if (!known) tell("form_start", form, field);
}

function onLeft(field: Field, form: HTMLFormElement): void {
  if (field !== used) return;
  used = undefined;
  tell("form_field", form, field, { field_time: since(focusedAt), form_completion_rate: completion(form) });
}

function onInvalid(field: Field, form: HTMLFormElement): void {
  const { validity } = field;
  let key = "";
  for (const flag in validity) if (validity[flag as keyof ValidityState]) key ||= flag;
  clearTimeout(forgetting);
  forgetting = setTimeout(() => errors.clear(), AGAIN_MS);
  if (errors.get(field) === key || errors.size >= MAX_ERRORS) return;
  errors.set(field, key);
  // Never the message: the browser's and the site's own may quote what was typed.
  tell("form_error", form, field, { error_message: key });
}

/** The form is over. `last`: the field that was used last, of one that is abandoned. */
function end(type: EventType, form: HTMLFormElement, last?: Field, rate = completion(form)): void {
  const at = begun.get(form)?.at ?? performance.now();
  begun.delete(form);
  tell(type, form, last, { field_time: since(at), form_completion_rate: rate });
}

function onSubmit(event: Event): void {
  const [form, ...above] = pathOf(event) as [HTMLFormElement, ...Element[]];
  if (isPrivate([form, ...above])) return;
  const rate = completion(form); // a listener of the page may empty it
  // After the page's listeners: one that stops the form with fields that are wrong has validated it itself.
  soon(() => {
    if (!event.defaultPrevented || !form.closest(":invalid")) end("form_submit", form, undefined, rate);
  });
}

export function watchForms(): void {
  listen("focusin", () => (focusedAt = performance.now()));
  listenToFields("input change", onInput);
  listenToFields("focusout", onLeft);
  listenToFields("invalid", onInvalid);
  listen("submit", onSubmit);
  // `form.submit()` has no submit event, but it collects the fields, and then the page goes.
  listen("formdata", ({ target }: FormDataEvent) => {
    const known = begun.get(target as HTMLFormElement);
    if (known) known.isHandedOver = true;
  });
  onLeave(() => {
    runAll(); // a submit of this moment
    for (const [form, { isHandedOver, last }] of begun) {
      if (isHandedOver) end("form_submit", form);
      else end("form_abandon", form, last);
    }
  });
}
