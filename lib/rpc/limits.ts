/** Largest message taken in or sent, in bytes. */
export const MAX_MESSAGE_BYTES = 4 * 1024 * 1024;
