// Automated browsers and crawlers, which are not tracked.

const NAMES = /headless|bot\b|crawl|spider|lighthouse|google-|externalhit/i;

export const isAutomated = (): boolean => navigator.webdriver || NAMES.test(navigator.userAgent);
