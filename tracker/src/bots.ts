// Automated browsers and crawlers, which are not tracked.

const NAMES =
  /headless|bot\b|bot\/|crawl|spider|slurp|lighthouse|pagespeed|phantomjs|prerender|facebookexternalhit|archiver|monitor/i;

export const isAutomated = (): boolean => navigator.webdriver || NAMES.test(navigator.userAgent);
