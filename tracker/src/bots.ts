// Automated browsers and crawlers, which are not tracked.

// Cubot makes telephones.
const NAMES = /headless|[^u]bot\b|crawl|spider|lighthouse|google-|externalhit/i;

export const isAutomated = (): boolean => navigator.webdriver || NAMES.test(navigator.userAgent);
