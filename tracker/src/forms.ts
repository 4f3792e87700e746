// Forms: begun, fields left, errors, sent, abandoned. Never a value.

import type { CollectorFields } from "./api";
import { isPrivate, pathOf } from "./element";
import { listen } from "./listen";
import { soon } from "./schedule";
import { tidy } from "./text";
import { onLeave, trackHere } from "./view";

const FIELDS = "input,select,textarea";
const NOT_FILLED_IN = "[type=hidden],[type=submit],[type=button],[type=reset],[type=image],:disabled";
const MAX_FIELDS = 200; // that are looked at for the completion rate: a form of thousands would take too long
const AGAIN_MS = 2000; // the same error of a field is told once until so long without errors
const MAX_ERRORS = 20; // that are told in this time

type Field = HTMLInputElement | HTMLSelectElement | HTMLTextAreaElement;
type Begun = { at: number; last: CollectorFields; isHandedOver: boolean };

const begun = new Map<HTMLFormElement, Begun>();
const errors = new Map<Field, string>(); // told within AGAIN_MS
let forgetting: ReturnType<typeof setTimeout> | undefined;

let used: Field | undefined; // the field with the focus, once something was put in
let focusedAt = 0;

// A field called "id" hides the property of its form, so attributes are read.
const formFields = (form: Element): CollectorFields => ({
  form_id: tidy(
    form.getAttribute("id") ??
      form.getAttribute("name") ??
      `form:${[...document.forms].indexOf(form as HTMLFormElement)}`,
    128,
  ),
  form_name: tidy(form.getAttribute("name") ?? form.getAttribute("aria-label"), 128),
});

const fieldFields = (field: Element): CollectorFields => ({
  field_name: tidy(field.getAttribute("name") ?? field.getAttribute("id"), 128),
  field_type: (field as Field).type,
});

const seconds = (ms: number): number => Math.round(ms) / 1000;

/** Percent of the fields that have a value. The radio buttons of a name are one field. */
function completion(form: Element): number | null {
  const groups = new Map<string, boolean>();
  const fields = [...form.querySelectorAll<Field>(FIELDS)].filter((field) => !field.matches(NOT_FILLED_IN));
  for (const [at, field] of fields.slice(0, MAX_FIELDS).entries()) {
    const isFilled = /^(checkbox|radio)$/.test(field.type) ? (field as HTMLInputElement).checked : field.value !== "";
    const group = field.type === "radio" ? `radio:${field.name}` : String(at);
    groups.set(group, groups.get(group) || isFilled);
  }
  if (!groups.size) return null;
  return Math.round(([...groups.values()].filter(Boolean).length / groups.size) * 100);
}

/** The field of an event and its form, unless they are private or there is no form. */
function read(event: Event): { field: Field; form: HTMLFormElement } | undefined {
  const path = pathOf(event);
  const field = path[0] as Field | undefined;
  const form = field?.form;
  return field?.matches(FIELDS) && form && !isPrivate(path) && !form.closest("[data-private]")
    ? { field, form }
    : undefined;
}

function onInput(event: Event): void {
  const found = read(event);
  if (!found) return;
  const { field, form } = found;
  used = field;
  const last = fieldFields(field);
  const known = begun.get(form);
  if (known) {
    known.last = last;
    known.isHandedOver = false;
    return;
  }
  begun.set(form, { at: performance.now(), last, isHandedOver: false });
  trackHere("form_start", { ...formFields(form), ...last });
}

function onBlur(event: Event): void {
  const found = read(event);
  if (!found || found.field !== used) return;
  used = undefined;
  const { field, form } = found;
  trackHere("form_field", {
    ...formFields(form),
    ...fieldFields(field),
    field_time: seconds(performance.now() - focusedAt),
    form_completion_rate: completion(form),
  });
}

/** The form is over: sent or abandoned. */
function end(type: "form_submit" | "form_abandon", form: HTMLFormElement): void {
  const { at, last } = begun.get(form) ?? { at: performance.now(), last: {} };
  begun.delete(form);
  trackHere(type, {
    ...formFields(form),
    ...(type === "form_abandon" && last),
    field_time: seconds(performance.now() - at),
    form_completion_rate: completion(form),
  });
}

function onSubmit(event: Event): void {
  const form = pathOf(event)[0] as HTMLFormElement | undefined;
  if (!form || form.closest("[data-private]")) return;
  // After the page's listeners: one that stops the form with fields that are wrong has validated it itself.
  soon(() => {
    if (!(event.defaultPrevented && form.matches(":invalid"))) end("form_submit", form);
  });
}

/** `form.submit()` has no submit event, but it collects the fields, and then the page goes. */
function onFormData(event: Event): void {
  const known = begun.get(event.target as HTMLFormElement);
  if (known) known.isHandedOver = true;
}

function onInvalid(event: Event): void {
  const found = read(event);
  if (!found) return;
  const { field, form } = found;
  const { validity } = field;
  const key = (Object.keys(ValidityState.prototype) as (keyof ValidityState)[]).find((flag) => validity[flag]) ?? "";
  clearTimeout(forgetting);
  forgetting = setTimeout(() => errors.clear(), AGAIN_MS);
  if (errors.get(field) === key || errors.size >= MAX_ERRORS) return;
  errors.set(field, key);
  trackHere("form_error", {
    ...formFields(form),
    ...fieldFields(field),
    // The browser's own words quote what was typed.
    error_message: key === "customError" ? tidy(field.validationMessage, 200) : key,
  });
}

export function watchForms(): void {
  listen("focusin", () => (focusedAt = performance.now()));
  listen("input change", onInput);
  listen("focusout", onBlur);
  listen("submit", onSubmit);
  listen("formdata", onFormData);
  listen("invalid", onInvalid);
  onLeave(() => {
    for (const [form, { isHandedOver }] of begun) end(isHandedOver ? "form_submit" : "form_abandon", form);
  });
}
