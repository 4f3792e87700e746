// Events of the page, heard at the window before the page's own listeners, which may stop them.

/** The function, but an error in it is none of the page's. */
export const safely =
  <Given extends unknown[]>(call: (...given: Given) => void) =>
  (...given: Given): void => {
    try {
      call(...given);
    } catch (error) {
      console.warn(error); // the page goes on; its own scripts may have changed what we call
    }
  };

/** Listen for events, named in a list with blanks, until the signal is aborted. */
export function listen(types: string, callback: (event: never) => void, signal?: AbortSignal): void {
  for (const type of types.split(" ")) {
    addEventListener(type, safely(callback as EventListener), { capture: true, passive: true, signal });
  }
}
