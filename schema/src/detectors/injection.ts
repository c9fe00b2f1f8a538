import { orderedFindings, type Finding, type FindingSeverity } from './finding.ts';
import { foldText, unmaskText } from './fold-text.ts';
import { hiddenMessage } from './hidden-text.ts';
import {
  address,
  credentialPath,
  discussion,
  meaning,
  meaningsAt,
  phrases,
  privateContext,
  sensitivePair,
  type Shape,
  wordMeanings,
} from './instruction-lexicon.ts';
import { type Reading, Readings } from './readings.ts';
import { TextSigns } from './text-signs.ts';
import { begins, codeKinds, endOfWord, fullStop, lineFeed, stops } from './word-codes.ts';

/** `content`: what a server returns. `definition`: what it says of its tools, where telling how to use them is normal. */
export type TextKind = 'content' | 'definition';

interface Hit {
  readonly bits: number;
  /** Number of the word in the text. */
  readonly word: number;
  readonly sentence: number;
  readonly start: number;
  readonly end: number;
}

/** One reason to believe that a model is being instructed. */
interface Signal {
  readonly name: string;
  readonly weight: number;
  readonly start: number;
  readonly end: number;
}

/** Signals this close together, in characters, speak of one demand. */
const clusterGap = 400;
const scoreHigh = 0.85;
/** Definitions are reviewed by a person once; an answer that is withheld is missed at once. */
const scoreMedium = { content: 0.58, definition: 0.48 } as const;
const scoreLow = { content: 0.45, definition: 0.35 } as const;
const signalsMax = 2_000;

/** What is recognised by its shape, not by a word. */
const shapes: readonly (readonly [Shape, number])[] = [
  [credentialPath, meaning.sensitive | meaning.credentialFile],
  [sensitivePair, meaning.sensitive],
  [privateContext, meaning.privateContext],
  [address, meaning.destination],
];

interface ShapedPlace {
  readonly bits: number;
  readonly start: number;
  readonly end: number;
}

/** Whether an expression can find anything: nearly all can be spared. */
function mayFind({ signs: lists }: Shape, signs: TextSigns): boolean {
  return lists.every((list) => signs.hasOneOf(list));
}

function shapesOf(text: string, signs: TextSigns): ShapedPlace[] {
  const found: ShapedPlace[] = [];
  for (const [shape, bits] of shapes) {
    if (!mayFind(shape, signs)) continue;
    const { pattern } = shape;
    pattern.lastIndex = 0;
    for (let match = pattern.exec(text); match !== null && found.length < signalsMax; match = pattern.exec(text)) {
      found.push({ bits, start: match.index, end: match.index + match[0].length });
    }
  }
  return found.sort((a, b) => a.start - b.start);
}

/** Words and shapes with a meaning, in order; a full stop ends a sentence where a space follows. */
function hitsOf(text: string, signs: TextSigns): Hit[] {
  const hits: Hit[] = [];
  const found = shapesOf(text, signs);
  let next = 0;
  let word = 0;
  let sentence = 0;
  for (let at = 0; at < text.length; ) {
    const start = at;
    const code = text.charCodeAt(start);
    const kind = codeKinds[code];
    at += 1;
    if (kind !== begins && kind !== stops) continue;
    for (; next < found.length && (found[next]?.start ?? 0) <= start; next += 1) {
      const shape = found[next];
      if (shape !== undefined) hits.push({ ...shape, word, sentence });
    }
    if (kind === stops) {
      if (code !== lineFeed || text.charCodeAt(at) === lineFeed) sentence += 1;
      continue;
    }
    at = endOfWord(text, at);
    const ends = at - start > 1 && text.charCodeAt(at - 1) === fullStop;
    const end = ends ? at - 1 : at;
    const bits = meaningsAt(text, start, end);
    if (bits !== undefined) hits.push({ bits, word, sentence, start, end });
    word += 1;
    if (ends) sentence += 1;
  }
  return hits;
}

interface Rule {
  readonly name: string;
  /** Meanings that must stand together; the first is where the search begins. Several bits in one: any of them. */
  readonly parts: readonly number[];
  /** Words from the first to the last. */
  readonly within: number;
  /** What, up to a dozen words before, turns it into the opposite. */
  readonly unless?: number;
  /** Whether the parts stand in this order. */
  readonly isOrdered: boolean;
  readonly inContent: number;
  readonly inDefinition: number;
}

const m = meaning;
const rules: readonly Rule[] = [
  {
    name: 'dismissInstructions',
    parts: [m.dismiss, m.instruction, m.prior | m.all | m.your | m.system | m.user],
    within: 9,
    isOrdered: false,
    inContent: 0.9,
    inDefinition: 0.9,
  },
  {
    name: 'dismissRules',
    parts: [m.dismiss, m.rule, m.prior | m.your | m.system],
    within: 8,
    isOrdered: false,
    inContent: 0.7,
    inDefinition: 0.55,
  },
  {
    name: 'dismissAll',
    parts: [m.dismiss, m.all, m.prior],
    within: 6,
    isOrdered: true,
    inContent: 0.7,
    inDefinition: 0.5,
  },
  {
    name: 'overruleInstructions',
    parts: [m.overrule, m.instruction, m.prior | m.your | m.system | m.all],
    within: 8,
    isOrdered: false,
    inContent: 0.6,
    inDefinition: 0.5,
  },
  {
    name: 'overruleSafety',
    parts: [m.overrule, m.rule | m.consent, m.your | m.system],
    within: 6,
    isOrdered: false,
    inContent: 0.4,
    inDefinition: 0.3,
  },
  {
    name: 'disobey',
    parts: [m.negation, m.follow, m.instruction, m.prior | m.your | m.system | m.user],
    within: 9,
    isOrdered: false,
    inContent: 0.65,
    inDefinition: 0.5,
  },
  {
    name: 'secrecy',
    parts: [m.negation, m.tell, m.user],
    within: 7,
    isOrdered: true,
    inContent: 0.5,
    inDefinition: 0.65,
  },
  {
    name: 'withoutConsent',
    parts: [m.without, m.consent, m.user],
    within: 5,
    isOrdered: true,
    unless: m.negation,
    inContent: 0.55,
    inDefinition: 0.65,
  },
  {
    name: 'covertAction',
    parts: [m.covert, m.send | m.call | m.read | m.include | m.harm],
    within: 6,
    isOrdered: false,
    inContent: 0.55,
    inDefinition: 0.5,
  },
  {
    name: 'exfiltration',
    parts: [m.sensitive | m.credentialFile | m.privateContext, m.send, m.destination],
    within: 24,
    isOrdered: false,
    inContent: 0.65,
    inDefinition: 0.6,
  },
  {
    name: 'sendSecret',
    parts: [m.send | m.include, m.credentialFile],
    within: 22,
    isOrdered: false,
    inContent: 0.6,
    inDefinition: 0.6,
  },
  {
    name: 'readSecret',
    parts: [m.read, m.credentialFile],
    within: 10,
    isOrdered: true,
    inContent: 0.5,
    inDefinition: 0.62,
  },
  {
    name: 'includeSecret',
    parts: [m.include | m.send, m.sensitive],
    within: 9,
    isOrdered: true,
    inContent: 0.3,
    inDefinition: 0.2,
  },
  {
    name: 'readSensitive',
    parts: [m.read, m.sensitive],
    within: 7,
    isOrdered: true,
    inContent: 0.3,
    inDefinition: 0.15,
  },
  {
    name: 'leakContext',
    parts: [m.send | m.include | m.encode | m.tell, m.privateContext],
    within: 10,
    isOrdered: true,
    inContent: 0.5,
    inDefinition: 0.35,
  },
  {
    name: 'commandedModel',
    parts: [m.agent, m.must, m.call | m.send | m.include | m.read | m.dismiss | m.harm | m.encode | m.tell],
    within: 12,
    isOrdered: false,
    inContent: 0.45,
    inDefinition: 0.25,
  },
  {
    name: 'pressure',
    parts: [m.must, m.call, m.tool, m.before],
    within: 14,
    isOrdered: false,
    inContent: 0.3,
    inDefinition: 0.15,
  },
  {
    name: 'harmfulDemand',
    parts: [m.must, m.harm, m.destination | m.permission | m.all],
    within: 12,
    isOrdered: false,
    inContent: 0.3,
    inDefinition: 0.1,
  },
  {
    name: 'redirect',
    parts: [m.must | m.overrule, m.send, m.destination],
    within: 14,
    isOrdered: false,
    inContent: 0.2,
    inDefinition: 0.3,
  },
];

/** The rules that may begin at a hit, by bit, so that most hits cost nothing. */
const firstBits = rules.reduce((bits, { parts: [first = 0] }) => bits | first, 0);

function matchRule(rule: Rule, hits: readonly Hit[], at: number): Signal | undefined {
  const anchor = hits[at];
  if (anchor === undefined) return undefined;
  if (rule.unless !== undefined && isTurned(rule.unless, hits, at)) return undefined;
  const used = new Set<number>([at]);
  let { start, end } = anchor;
  let from = at;
  for (const part of rule.parts.slice(1)) {
    const found = nearest(rule, hits, rule.isOrdered ? from : at, part, used);
    if (found === undefined) return undefined;
    used.add(found);
    from = found;
    start = Math.min(start, hits[found]?.start ?? start);
    end = Math.max(end, hits[found]?.end ?? end);
  }
  return { name: rule.name, weight: 0, start, end };
}

const turnedWithin = 14;

function isTurned(bits: number, hits: readonly Hit[], at: number): boolean {
  const anchor = hits[at];
  for (let index = at - 1; index >= 0; index -= 1) {
    const hit = hits[index];
    if (
      hit === undefined ||
      anchor === undefined ||
      hit.sentence !== anchor.sentence ||
      anchor.word - hit.word > turnedWithin
    )
      return false;
    if ((hit.bits & bits) !== 0) return true;
  }
  return false;
}

function nearest(
  rule: Rule,
  hits: readonly Hit[],
  at: number,
  part: number,
  used: ReadonlySet<number>,
): number | undefined {
  const anchor = hits[at];
  if (anchor === undefined) return undefined;
  for (let distance = 1; ; distance += 1) {
    let inReach = false;
    for (const index of rule.isOrdered ? [at + distance] : [at + distance, at - distance]) {
      const hit = hits[index];
      if (hit === undefined || Math.abs(hit.word - anchor.word) > rule.within || hit.sentence !== anchor.sentence)
        continue;
      inReach = true;
      if ((hit.bits & part) !== 0 && !used.has(index)) return index;
    }
    if (!inReach) return undefined;
  }
}

function signalsOf(text: string, kind: TextKind, signs: TextSigns): Signal[] {
  const signals: Signal[] = [];
  const weightOf = (source: { inContent: number; inDefinition: number }): number =>
    kind === 'content' ? source.inContent : source.inDefinition;
  for (const phrase of phrases) {
    if (!mayFind(phrase, signs)) continue;
    phrase.pattern.lastIndex = 0;
    for (
      let match = phrase.pattern.exec(text);
      match !== null && signals.length < signalsMax;
      match = phrase.pattern.exec(text)
    ) {
      const end = match.index + match[0].length;
      signals.push({ name: phrase.name, weight: weightOf(phrase), start: match.index, end });
    }
  }
  const hits = hitsOf(text, signs);
  for (let at = 0; at < hits.length && signals.length < signalsMax; at += 1) {
    const bits = hits[at]?.bits ?? 0;
    if ((bits & firstBits) === 0) continue;
    for (const rule of rules) {
      if (((rule.parts[0] ?? 0) & bits) === 0) continue;
      const signal = matchRule(rule, hits, at);
      if (signal !== undefined) signals.push({ ...signal, weight: weightOf(rule) });
    }
  }
  return signals.sort((a, b) => a.start - b.start);
}

interface Cluster {
  readonly start: number;
  readonly end: number;
  readonly score: number;
  /** The signal that weighs most: it names the finding. */
  readonly name: string;
}

function clustersOf(signals: readonly Signal[], text: string): Cluster[] {
  const clusters: Cluster[] = [];
  let group: Signal[] = [];
  let reach = 0;
  for (const signal of signals) {
    if (group.length > 0 && signal.start - reach > clusterGap) {
      clusters.push(clusterOf(group, text));
      group = [];
    }
    group.push(signal);
    reach = Math.max(reach, signal.end);
  }
  if (group.length > 0) clusters.push(clusterOf(group, text));
  return clusters;
}

function clusterOf(group: readonly Signal[], text: string): Cluster {
  const heaviest = new Map<string, number>();
  let top = group[0];
  let end = 0;
  for (const signal of group) {
    const weight = signal.weight * discountOf(signal, text);
    heaviest.set(signal.name, Math.max(heaviest.get(signal.name) ?? 0, weight));
    if (top === undefined || signal.weight > top.weight) top = signal;
    end = Math.max(end, signal.end);
  }
  let doubt = 1;
  for (const weight of heaviest.values()) doubt *= 1 - weight;
  return { start: group[0]?.start ?? 0, end, score: 1 - doubt, name: top?.name ?? '' };
}

const discussionReach = 260;
const quotationReach = 170;
const opening = /(?:^|[\s(:,])["'`“‘«「][^"'`”’»」\n]{0,160}$/;

/** Words that say of a quotation that it is words: `strings like "…"`. */
const introduction =
  /\b(?:phrases?|strings?|words?|texts?|inputs?|prompts?|messages?|comments?|sentences?|patterns?|examples?|things?|lines?)\s+(?:like|such as|that (?:say|read|contain|match)(?:e?s)?)\s+["'`“‘«「][^"'`”’»」\n]{0,60}(?:["'`”’»」]\s*(?:,|or|and|\s)+\s*["'`“‘«「][^"'`”’»」\n]{0,60}){0,3}$/;
/** Tells of what somebody made a model do. Who asks the reader says `you`. */
const narration =
  /\b(?:told|tells|ask(?:s|ed)?|trick(?:s|ed)|instruct(?:s|ed)|convince[sd]|persuade[sd]|ma(?:de|kes)|g(?:ot|ets))\s+(?:the|an?|its|their|our)\s+(?:\w+\s+){0,2}(?:agent|model|assistant|bot|chatbot|llm|copilot)s?\b(?:[^.!?\n]|[.!?](?!\s)){0,100}$/;
/** Whoever attacks is the one who does it. */
const attacker =
  /\b(?:attackers?|adversar(?:y|ies)|hackers?|intruders?|malware|worms?|trojans?|exploits?)\s+(?:\w+\s+){0,2}$/;
/** Explains what could be done. */
const explanation =
  /\b(?:show|explain|describe|demonstrate)(?:s|ed|ing)?\s+(?:how|that|why)\b[^.!?\n]{0,80}\b(?:can|could|may|might)\b[^.!?\n]{0,60}$/;

/** A text that speaks about instructions to models quotes them or tells of them, and says what they are. */
function discountOf(signal: Signal, text: string): number {
  const before = text.slice(Math.max(0, signal.start - quotationReach), signal.start);
  // What is demanded may stand in a quotation whose introduction holds a word of the signal.
  const until = text.slice(Math.max(0, signal.end - quotationReach), signal.end);
  if (introduction.test(before) || introduction.test(until)) return 0.25;
  if (attacker.test(before) || explanation.test(before)) return 0.45;
  const around = text.slice(Math.max(0, signal.start - discussionReach), signal.end + discussionReach);
  const mentions = around.match(discussion)?.length ?? 0;
  if (mentions === 0) return 1;
  if (opening.test(before) || narration.test(before)) return mentions > 1 ? 0.25 : 0.45;
  return mentions > 2 ? 0.5 : mentions > 1 ? 0.7 : 0.9;
}

function severityOf(score: number, kind: TextKind): FindingSeverity | undefined {
  if (score >= scoreHigh) return 'high';
  if (score >= scoreMedium[kind]) return 'medium';
  return score >= scoreLow[kind] ? 'low' : undefined;
}

function findingsIn(folded: string, kind: TextKind, signs: TextSigns = TextSigns.of(folded)): Finding[] {
  const findings: Finding[] = [];
  for (const { start, end, score, name } of clustersOf(signalsOf(folded, kind, signs), folded)) {
    const severity = severityOf(score, kind);
    if (severity !== undefined) findings.push({ detector: 'injection', category: name, severity, start, end });
  }
  return findings;
}

/** Of what is found in another reading, so much must be written otherwise that it was meant to be hidden. */
const disguisedShareMin = 0.2;

/**
 * Demands on a model in a text that should only inform it. Positions are exact where folding kept the length, else the
 * finding covers the whole text. What is written in another encoding, masked or hidden counts as more than the same in
 * clear: nobody hides what he may say. Says nothing of intent: a finding is a probability, high about 0.85 and more.
 */
export function findInjection(text: string, kind: TextKind, readings: Readings = new Readings(text)): Finding[] {
  const { signs } = readings;
  const folded = foldText(text, signs);
  const isExact = folded.length === text.length;
  const foldedSigns = signs.isAscii && isExact ? signs.inLowerCase(folded) : TextSigns.of(folded);
  const all = { start: 0, end: text.length };
  const findings = findingsIn(folded, kind, foldedSigns).map((finding) => (isExact ? finding : { ...finding, ...all }));
  const unmasked = unmaskText(folded, (word) => wordMeanings.has(word), foldedSigns);
  if (unmasked !== undefined) {
    const masked = findingsIn(unmasked, kind).filter(({ severity }) => severity !== 'low');
    if (masked.length > findings.length)
      findings.push(...masked.map((finding) => ({ ...finding, ...all, severity: 'high' as const })));
  }
  for (const reading of readings.all) findings.push(...findingsInReading(reading, kind));
  const message = hiddenMessage(text, signs);
  const [hidden] = message === '' ? [] : findingsIn(foldText(message), kind);
  if (hidden !== undefined) findings.push({ ...hidden, ...all, severity: 'critical' });
  return orderedFindings(findings);
}

function findingsInReading(reading: Reading, kind: TextKind): Finding[] {
  const folded = foldText(reading.text);
  const isExact = folded.length === reading.text.length;
  return findingsIn(folded, kind).flatMap((finding) => {
    const { start, end } = isExact ? finding : { start: 0, end: reading.text.length };
    const share = reading.changedShare(start, end);
    if (share === 0) return [];
    const severity = reading.isDecoded || share >= disguisedShareMin ? ('high' as const) : finding.severity;
    return [{ ...finding, ...reading.placeOf(start, end), severity }];
  });
}

export const injectionCategories: readonly string[] = [...new Set([...phrases, ...rules].map(({ name }) => name))];
