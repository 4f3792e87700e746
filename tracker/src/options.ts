// The options of the script's tag. The file is the same for every site, so that its hash and caches hold.

const script = (document.currentScript ?? document.querySelector("script[data-site]")) as HTMLScriptElement | null;
const data: DOMStringMap = script?.dataset ?? {};

// `<host>/public/<site>/t.js`, or `<host>/t.js` with `data-site`. The host may have a path in front.
const [, scriptHost = "", scriptSite] = /^(.*?)(?:\/public\/([^/]+))?\/[^/]*$/.exec(script?.src ?? "") ?? [];

/** The id of the site, undefined if the tag has none. */
export const siteId = data.site ?? (scriptSite && decodeURIComponent(scriptSite));

/** Where events go. */
export const endpoint = `${(data.host ?? scriptHost).replace(/\/$/, "")}/public/${siteId}/${data.path ?? "e"}`;

/** `none`: cookies at once; `cookieless`: no storage until consent. Anything else: nothing is sent until consent. */
export const consentMode = data.consent || "none";

/** Whether events are sent without calls of the page. */
export const isAuto = data.auto !== "false";

/** What makes a new page of a single-page app: `path`, `search`, `hash` or `off`. */
export const spa = data.spa;

/** Whether the page's own query is kept. Otherwise only its utm_ parameters are. */
export const keepsQuery = data.query === "all";

/** The name of the page's function that sees each event before it is sent. */
export const beforeSend = data.beforeSend;

/** Whether automated browsers are tracked too. */
export const tracksAutomation = "automation" in data;

/** Whether events of this type are sent. */
export const isOn = (type: string): boolean => {
  const isNamed = (list = ""): boolean => list.split(/[\s,]+/).includes(type);
  return isNamed(data.on) || !(type === "heatmap_click" || isNamed(data.off));
};
