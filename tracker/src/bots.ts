// Automated browsers and crawlers, which are not tracked.

// Cubot makes telephones.
const NAMES = /[^u]bot\b|headless|crawl|spider|lighthouse|google-|externalhit/i;

export const isAutomated = (): boolean => navigator.webdriver || NAMES.test(navigator.userAgent);
