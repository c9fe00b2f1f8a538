export const emailLengthMax = 254;
/** Enough to tell an address from a name; whether it exists only a letter can tell. */
export const emailPattern = /^[^\s@]+@[^\s@]+$/;
