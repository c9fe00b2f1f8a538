/** Of each code below 0x250: a word may begin with it, go on with it, or it ends a sentence. */
export const begins = 1;
const goesOn = 2;
export const stops = 3;
export const codeKinds = new Uint8Array(0x250);
codeKinds.fill(begins, 0xc0);
for (const character of 'abcdefghijklmnopqrstuvwxyz0123456789_.') codeKinds[character.charCodeAt(0)] = begins;
for (const character of "'-") codeKinds[character.charCodeAt(0)] = goesOn;
for (const character of '!?;\n') codeKinds[character.charCodeAt(0)] = stops;
const apostrophe = 0x2019;
export const fullStop = 0x2e;
export const lineFeed = 0x0a;

/** Behind the word that begins before `at`. */
export function endOfWord(text: string, at: number): number {
  let end = at;
  for (; ; end++) {
    const code = text.charCodeAt(end);
    const kind = codeKinds[code];
    if (kind !== begins && kind !== goesOn && code !== apostrophe) return end;
  }
}
