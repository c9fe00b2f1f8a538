/** The engine makes up its mind after some look-ups (a dozen in V8 13.6). */
const lookUps = 1_000;

/**
 * Brings the methods of strings back into the engine's fast form. Whatever inherits from `String.prototype`, as a class of
 * ioredis does that nobody here uses, makes V8 keep them in the form of a dictionary: each `charCodeAt` in a loop is
 * looked up anew from then on, and all that goes through texts takes three times as long, in the whole process. Looked up
 * often enough by way of an heir, they are put in order again. To be called by whatever imports such a module.
 */
export function keepStringsFast(): void {
  const heir = Object.create(String.prototype) as string;
  for (let at = 0; at < lookUps; at++) methodOf(heir);
}

function methodOf(text: string): unknown {
  // oxlint-disable-next-line typescript/unbound-method -- looked up, not called
  return text.charCodeAt;
}
