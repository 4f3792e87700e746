// Text: cut to the contract's limits, and masked.

/** The first characters. Counted in code points, as the contract does, so that no emoji is cut in half. */
export const cut = (text: string, max: number): string => [...text].slice(0, max).join("");

const EMAIL = /[^\s@]+ ?@ ?[^\s@]*/g; // a blank may stand for a tag

/** E-mail addresses hidden. */
export const maskEmails = (text: string): string => text.replace(EMAIL, "***");

/** E-mail addresses hidden, and numbers of seven or more digits: telephones, cards and accounts have as many. */
export const mask = (text: string): string =>
  maskEmails(text).replace(/\p{Nd}(?:[^\p{L}\p{Nd}]{0,3}\p{Nd}){6,}/gu, "***");

/** Text for a field: on one line, masked, cut, null if nothing is left. Mask first: half an address is one, too. */
export const tidy = (text: string | null | undefined, max: number): string | null =>
  cut(mask((text ?? "").replace(/\s+/g, " ").trim()), max) || null;
