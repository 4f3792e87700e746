// Automated browsers and crawlers, which are not tracked.

const NAMES = /headless|bot\b|crawl|spider|slurp|lighthouse|phantomjs|prerender|externalhit/i;

export const isAutomated = (): boolean => navigator.webdriver || NAMES.test(navigator.userAgent);
