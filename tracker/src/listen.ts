// Events of the page, heard at the window before the page's own listeners, which may stop them.

/** Listen for events, named in a list with blanks, until the signal is aborted. */
export function listen(types: string, callback: (event: never) => void, signal?: AbortSignal): void {
  for (const type of types.split(" ")) {
    addEventListener(type, callback as EventListener, { capture: true, passive: true, signal });
  }
}
