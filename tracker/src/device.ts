// The device: what the browser says of itself and its screen.

import type { CollectorFields } from "./api";

type Brand = { brand: string; version: string };
type UserAgentData = {
  brands: Brand[];
  mobile: boolean;
  platform: string;
  getHighEntropyValues?(hints: string[]): Promise<{ platformVersion?: string; fullVersionList?: Brand[] }>;
};

const agent = navigator.userAgent;
const agentData = (navigator as { userAgentData?: UserAgentData }).userAgentData;

/** Names in the order to look for them: most browsers also name the ones that they want to be mistaken for. */
const BROWSERS: [string, RegExp][] = [
  ["Edge", /Edg(?:e|A|iOS)?\/([\d.]+)/],
  ["Opera", /(?:OPR|OPiOS)\/([\d.]+)/],
  ["Samsung Internet", /SamsungBrowser\/([\d.]+)/],
  ["Firefox", /(?:Firefox|FxiOS)\/([\d.]+)/],
  ["Chrome", /(?:Chrome|CriOS)\/([\d.]+)/],
  ["Safari", /Version\/([\d.]+).* Safari\//],
];
const SYSTEMS: [string, RegExp][] = [
  ["Android", /Android ?([\d.]*)/],
  ["iOS", /(?:iPhone|iPad|iPod).*? OS ([\d_]+)/],
  ["Windows", /Windows NT ([\d.]+)/],
  ["macOS", /Mac OS X ([\d_.]+)/],
  ["ChromeOS", /CrOS \S+ ([\d.]+)/],
  ["Linux", /Linux()/],
];

/** A name and its version, null if none is found. */
function find(names: [string, RegExp][]): [string | null, string | null] {
  for (const [name, like] of names) {
    const match = like.exec(agent);
    if (match) return [name, match[1]?.replace(/_/g, ".") || null];
  }
  return [null, null];
}

const [browser, browserVersion] = find(BROWSERS);
let [os, osVersion] = find(SYSTEMS);

// An iPad says that it is a Mac, which has no touch screen.
const isTablet = /iPad|Android(?!.*Mobile)|Tablet/.test(agent) || (os === "macOS" && navigator.maxTouchPoints > 1);
if (isTablet && os === "macOS") os = "iOS";

// Chromium freezes the version in its user agent. It takes milliseconds to say the real one, before the first event.
agentData?.getHighEntropyValues?.(["platformVersion"]).then(
  ({ platformVersion }) => (osVersion = platformVersion || osVersion),
  () => {},
);

/** The fields of every event. */
export const readDevice = (): CollectorFields => ({
  // Browsers do not tell laptops. Most have at most 1,680 CSS pixels, most desktop screens have more.
  device_type: isTablet
    ? "tablet"
    : agentData?.mobile || /Mobi|iPhone|iPod/.test(agent)
      ? "mobile"
      : screen.width <= 1680
        ? "laptop"
        : "desktop",
  browser,
  os,
  viewport_width: innerWidth,
  viewport_height: innerHeight,
});

/** The fields that only a pageview has. */
export const readDeviceDetails = (): CollectorFields => ({
  browser_version: browserVersion,
  os_version: osVersion,
  screen_width: screen.width,
  screen_height: screen.height,
  language: navigator.language,
  timezone: Intl.DateTimeFormat().resolvedOptions().timeZone,
});
