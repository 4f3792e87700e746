// The device: what the browser says of itself and its screen.

import type { CollectorFields } from "./api";

type UserAgentData = {
  mobile: boolean;
  getHighEntropyValues?(hints: string[]): Promise<{ platformVersion?: string }>;
};

type WithTemporal = { Temporal?: { Now: { timeZoneId(): string } } };

const agent = navigator.userAgent;
const agentData = (navigator as { userAgentData?: UserAgentData }).userAgentData;

// Names and their marks in the user agent, in the order to look for them: most browsers also have the marks of those
// that they want to be mistaken for.
const BROWSERS = {
  Edge: "Edg",
  Opera: "OPR",
  "Samsung Internet": "SamsungBrowser",
  Firefox: "F(?:irefox|xiOS)",
  Chrome: "C(?:hrome|riOS)",
  Safari: "Version",
};
const SYSTEMS = {
  Android: "Android",
  iOS: "(?:iPhone|CPU) OS",
  Windows: "Windows NT",
  macOS: "Mac OS X",
  ChromeOS: "CrOS \\S+",
  Linux: "Linux",
};

/** A name and its version, undefined if none is found. */
function find(marks: Record<string, string>): [name?: string, version?: string] {
  for (const name in marks) {
    const match = new RegExp(`${marks[name]}[a-zA-Z]*[ /]?([\\d._]*)`).exec(agent);
    if (match) return [name, match[1]?.replace(/_/g, ".")];
  }
  return [];
}

const [browser, browserVersion] = find(BROWSERS);
let [os, osVersion] = find(SYSTEMS);

// An iPad says that it is a Mac, which has no touch screen.
const isTouchMac = os === "macOS" && navigator.maxTouchPoints > 1;
if (isTouchMac) os = "iOS";

// Browsers do not tell laptops. Most have at most 1,680 CSS pixels, most desktop screens have more.
const deviceType =
  isTouchMac || /iPad|Android(?!.*Mobile)/.test(agent)
    ? "tablet"
    : agentData?.mobile || /Mobi/.test(agent)
      ? "mobile"
      : screen.width > 1680
        ? "desktop"
        : "laptop";

// Chromium freezes the version in its user agent. It takes milliseconds to say the real one, before the first event.
agentData?.getHighEntropyValues?.(["platformVersion"]).then(
  ({ platformVersion }) => (osVersion = platformVersion || osVersion),
  () => {},
);

/** The fields of every event, and those that only a pageview has. */
export const readDevice = (isPageview: boolean): CollectorFields => ({
  device_type: deviceType,
  browser,
  os,
  viewport_width: innerWidth,
  viewport_height: innerHeight,
  ...(isPageview && {
    browser_version: browserVersion || null,
    os_version: osVersion || null,
    screen_width: screen.width,
    screen_height: screen.height,
    language: navigator.language,
    // Intl takes 11 to 16 ms for its first time zone, Temporal 0.3 ms. WebKit lacks Temporal.
    timezone: (window as WithTemporal).Temporal?.Now.timeZoneId() ?? Intl.DateTimeFormat().resolvedOptions().timeZone,
  }),
});
