import type { CollectorEvent, EventType } from "./contract";

/** Fields of the contract that the page sets itself. Other fields are dropped by the collector. */
export type CollectorFields = Partial<Omit<CollectorEvent, "event_type">>;

/** A call that a page makes before the script has loaded: the name of a method, then its arguments. */
export type CollectorCall = {
  [Name in keyof CollectorMethods]: [Name, ...Parameters<CollectorMethods[Name]>];
}[keyof CollectorMethods];

export interface CollectorMethods {
  /** Begin a new page view. In a page that `data-spa` follows this is not needed. */
  trackPageview(fields?: CollectorFields): void;
  /** Send an event. A type that the contract lacks is sent as a `click` on a `custom` element with that id. */
  trackEvent(event: { type: EventType | (string & {}) } & CollectorFields): void;
  /** Say whether the visitor agrees to cookies and, with `data-consent="required"`, to being tracked at all. */
  consent(granted: boolean): void;
  /** Send again after `disable()`. */
  enable(): void;
  /** Send nothing more from this page until `enable()`. */
  disable(): void;
  /** Whether events are sent at the moment. */
  isEnabled(): boolean;
}

/** `window.collector` once the script has loaded. A call that is pushed to `q` is made at once. */
export interface Collector extends CollectorMethods {
  q: CollectorCall[] | { push(...calls: CollectorCall[]): unknown };
}

/** `window.collector` at any time. Before the script has loaded it may be `{q: []}`: the calls are made when it loads. */
export type CollectorOrStub = Partial<CollectorMethods> & Pick<Collector, "q">;

/** The type of the function that `data-before-send` names. What is not an object, such as null, drops the event. */
export type CollectorBeforeSend = (event: CollectorEvent) => CollectorEvent | null;

declare global {
  interface Window {
    collector?: CollectorOrStub;
  }
}
