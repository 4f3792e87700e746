/** What an event is about. */
export type EventType = "pageview" | "scroll" | "time_on_page" | "cwv" | "exit" | "heartbeat" | "click" | "outbound_link" | "file_download" | "email_click" | "phone_click" | "rage_click" | "dead_click" | "copy" | "form_start" | "form_submit" | "form_abandon" | "form_field" | "form_error" | "heatmap_click";

/** An event as it is sent. docs/fields.md says what each field means. */
export interface CollectorEvent {
  event_type: EventType;
  session_id: string;
  visitor_id: string;
  cookie_visitor_id?: string | null;
  visitor_id_source?: "cookie" | "fingerprint" | "hybrid";
  page_url?: string;
  page_path: string;
  event_time: string;
  page_title?: string;
  page_referrer?: string | null;
  scroll_depth?: number | null;
  time_on_page?: number | null;
  engaged_time?: number | null;
  lcp?: number | null;
  fid?: number | null;
  cls?: number | null;
  ttfb?: number | null;
  inp?: number | null;
  utm_source?: string | null;
  utm_medium?: string | null;
  utm_campaign?: string | null;
  utm_term?: string | null;
  utm_content?: string | null;
  traffic_source?: "direct" | "organic" | "social" | "paid" | "referral" | "email" | "internal" | "ai" | null;
  device_type?: "desktop" | "laptop" | "mobile" | "tablet" | null;
  browser?: string | null;
  browser_version?: string | null;
  os?: string | null;
  os_version?: string | null;
  screen_width?: number | null;
  screen_height?: number | null;
  language?: string | null;
  timezone?: string | null;
  referrer_domain?: string | null;
  is_entry?: boolean;
  is_exit?: boolean;
  visible?: boolean;
  max_scroll_depth?: number | null;
  click_x?: number | null;
  click_y?: number | null;
  click_element?: string | null;
  click_element_tag?: string | null;
  click_element_id?: string | null;
  click_element_class?: string | null;
  click_element_text?: string | null;
  click_target_url?: string | null;
  click_count?: number | null;
  viewport_width?: number | null;
  viewport_height?: number | null;
  file_name?: string | null;
  file_extension?: string | null;
  file_url?: string | null;
  copied_text?: string | null;
  scroll_behavior?: "reading" | "skimming" | "jumping" | null;
  form_id?: string | null;
  form_name?: string | null;
  field_name?: string | null;
  field_type?: string | null;
  field_time?: number | null;
  error_message?: string | null;
  form_completion_rate?: number | null;
}

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
