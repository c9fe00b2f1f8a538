import type { DetectorName, Finding } from '../detectors/finding.ts';
import type { TextKind } from '../detectors/injection.ts';
import { inspectText } from '../detectors/inspect-text.ts';
import { pieceAt } from '../detectors/piece-at.ts';
import type { MessageText } from './message-texts.ts';

/**
 * Of a text that goes on in the next item or event, so much of its end and its beginning is read as one, in characters:
 * the bound for what is found although it was split.
 */
export const seamLength = 2_048;

/** A part of one of a message's texts. */
export interface TextPlace {
  /** Index of the text. */
  readonly text: number;
  readonly start: number;
  readonly end: number;
}

export interface MessageFinding extends Pick<Finding, 'detector' | 'category' | 'severity'> {
  /** In the order of the message; of what began in an earlier event, the part in this one. */
  readonly places: readonly TextPlace[];
}

/** What the detectors are given of a message: it can be handed to a thread. */
export interface DetectionInput {
  readonly texts: readonly Pick<MessageText, 'text' | 'role' | 'member'>[];
  readonly kind: TextKind;
  readonly detectors: readonly DetectorName[];
  /** The end of the prose that came before on the same stream; empty where nothing did. */
  readonly carried: string;
}

export interface DetectionResult {
  readonly findings: readonly MessageFinding[];
  /** Milliseconds that each detector took. */
  readonly durations: Readonly<Partial<Record<DetectorName, number>>>;
}

/** Stands for what came before on the stream, which cannot be changed any more. */
const carriedText = -1;
/** Found across two items of structured data only where its form cannot come about by chance. */
const strongCategories = new Set(['cardNumber', 'iban', 'email']);

/** Texts put together to be read as one, and which part is whose. */
class Composition {
  readonly #parts: string[] = [];
  readonly #places: { readonly at: number; readonly length: number; readonly text: number; readonly from: number }[] =
    [];
  #length = 0;

  get text(): string {
    return this.#parts.join('');
  }

  filler(text: string): void {
    this.#parts.push(text);
    this.#length += text.length;
  }

  add(text: number, part: string, from = 0): void {
    this.#places.push({ at: this.#length, length: part.length, text, from });
    this.filler(part);
  }

  placesOf(start: number, end: number): TextPlace[] {
    const places: TextPlace[] = [];
    for (let index = pieceAt(this.#places, start); index < this.#places.length; index += 1) {
      const place = this.#places[index];
      if (place === undefined || place.at >= end) break;
      const first = Math.max(start, place.at) - place.at;
      const last = Math.min(end, place.at + place.length) - place.at;
      if (last > first) places.push({ text: place.text, start: place.from + first, end: place.from + last });
    }
    return places;
  }
}

/**
 * What the detectors find in the texts of a message, read twice: each with the name of its member, prose first, as a
 * person would list them; and end to end, so that what was split over items, members or events is found as if it were
 * not. A pure function.
 * @param monotonic milliseconds of a clock that only goes forward
 */
export function findInTexts(input: DetectionInput, monotonic: () => number): DetectionResult {
  const durations: Partial<Record<DetectorName, number>> = {};
  const inspect = (text: string): Finding[] =>
    inspectText(text, input.kind, input.detectors, (name, run) => {
      const begun = monotonic();
      const findings = run();
      durations[name] = (durations[name] ?? 0) + (monotonic() - begun);
      return findings;
    });
  const listed = listing(input);
  const found = new Found();
  for (const finding of inspect(listed.text)) found.add(finding, listed.placesOf(finding.start, finding.end));
  const joined = endToEnd(input);
  if (joined !== undefined) {
    for (const finding of inspect(joined.text)) {
      const places = joined.placesOf(finding.start, finding.end);
      if (places.length < 2) continue;
      const isProse = places.every(({ text }) => text === carriedText || input.texts[text]?.role === 'text');
      // What is whole by itself is not made another by its neighbours.
      if ((isProse || isStrong(finding)) && !found.overlaps(finding, places)) found.add(finding, places);
    }
  }
  return { findings: found.all, durations };
}

function isStrong({ detector, category }: Finding): boolean {
  if (detector === 'personalData') return strongCategories.has(category);
  return detector === 'secret' || detector === 'injection';
}

/** Findings with a place in the message, each once. */
class Found {
  readonly all: MessageFinding[] = [];
  readonly #seen = new Set<string>();
  /** By kind and text. */
  readonly #places = new Map<string, TextPlace[]>();

  /** Whether something of the same kind was found in one of the places. */
  overlaps({ detector, category }: Finding, places: readonly TextPlace[]): boolean {
    return places.some(({ text, start, end }) =>
      this.#places.get(`${detector} ${category} ${text}`)?.some((known) => known.start < end && start < known.end),
    );
  }

  add({ detector, category, severity }: Finding, found: readonly TextPlace[]): void {
    const places = found.filter(({ text }) => text !== carriedText);
    const key = `${detector} ${category} ${places.map(({ text, start, end }) => `${text}.${start}.${end}`).join(' ')}`;
    if (places.length > 0 && !this.#seen.has(key)) {
      this.#seen.add(key);
      this.all.push({ detector, category, severity, places });
    }
    for (const place of found) {
      const of = `${detector} ${category} ${place.text}`;
      const known = this.#places.get(of);
      if (known === undefined) this.#places.set(of, [place]);
      else known.push(place);
    }
  }
}

function listing({ texts, carried }: DetectionInput): Composition {
  const listed = new Composition();
  if (carried !== '') {
    listed.add(carriedText, carried.slice(-seamLength));
    listed.filler('\n');
  }
  for (const [index, { text, role }] of texts.entries()) {
    if (role !== 'text') continue;
    listed.add(index, text);
    listed.filler('\n');
  }
  for (const [index, { text, role, member }] of texts.entries()) {
    if (role === 'text' || (role === 'name' && isValueNext(texts, index))) continue;
    // A password is told by the name of its member.
    if (member !== '' && role !== 'name') {
      const named = texts[index - 1];
      if (named?.role === 'name' && named.text === member) listed.add(index - 1, member);
      else listed.filler(member);
      listed.filler(': ');
    }
    listed.add(index, text);
    listed.filler('\n');
  }
  return listed;
}

function isValueNext(texts: DetectionInput['texts'], index: number): boolean {
  const next = texts[index + 1];
  return next !== undefined && next.role !== 'name' && next.role !== 'text' && next.member === texts[index]?.text;
}

/** Prose end to end, then other strings; undefined where nothing was split. Of long texts only ends can be part of it. */
function endToEnd({ texts, carried }: DetectionInput): Composition | undefined {
  const prose = [...texts.keys()].filter((index) => texts[index]?.role === 'text');
  const data = [...texts.keys()].filter((index) => texts[index]?.role === 'data');
  if (prose.length + data.length < 2 && !(carried !== '' && prose.length > 0)) return undefined;
  const joined = new Composition();
  if (carried !== '') joined.add(carriedText, carried.slice(-seamLength));
  for (const index of [...prose, ...data]) {
    const text = texts[index]?.text ?? '';
    if (text.length <= 2 * seamLength) {
      joined.add(index, text);
      continue;
    }
    joined.add(index, text.slice(0, seamLength));
    joined.filler('\n\n');
    joined.add(index, text.slice(-seamLength), text.length - seamLength);
  }
  return joined;
}

/** What the next event of a stream is read together with: the end of all prose so far. */
export function carryOver(carried: string, texts: readonly Pick<MessageText, 'text' | 'role'>[]): string {
  let carry = carried;
  for (const { text, role } of texts) if (role === 'text') carry = (carry + text.slice(-seamLength)).slice(-seamLength);
  return carry;
}
