import { type DetectorName, type Finding, orderedFindings } from './finding.ts';
import { decodedParts } from './fold-text.ts';
import { findHiddenText, withoutHiddenText } from './hidden-text.ts';
import { findInjection, type TextKind } from './injection.ts';
import { findLinks } from './links.ts';
import { findPersonalData } from './personal-data.ts';
import { findSecrets } from './secrets.ts';

const detectors: Readonly<Record<DetectorName, (text: string, kind: TextKind) => Finding[]>> = {
  hiddenText: findHiddenText,
  secret: (text) => throughDisguise(text, findSecrets),
  personalData: (text) => throughDisguise(text, findPersonalData),
  injection: findInjection,
  link: findLinks,
};

/**
 * A value is found also where invisible characters part it or where it stands encoded. What is found in clear has its
 * exact place; else the finding covers the encoded part, or all of the text.
 */
function throughDisguise(text: string, find: (text: string) => Finding[]): Finding[] {
  const findings = find(text);
  for (const part of decodedParts(text)) {
    const isKnown = findings.some(({ start, end }) => start <= part.start && part.end <= end);
    const inside = isKnown ? [] : find(part.text);
    findings.push(...inside.map((finding) => ({ ...finding, start: part.start, end: part.end })));
  }
  const visible = withoutHiddenText(text);
  if (visible === text) return findings;
  const all = find(visible.normalize('NFKC'));
  if (all.length > findings.length)
    findings.push(...all.map((finding) => ({ ...finding, start: 0, end: text.length })));
  return findings;
}

/**
 * What the named detectors see in a text, by place. A pure function: linear in the length of the text, without state.
 * A text in several pieces (content items, events of a stream) is to be given as one.
 */
export function inspectText(text: string, kind: TextKind, names: readonly DetectorName[]): Finding[] {
  return orderedFindings(names.flatMap((name) => detectors[name](text, kind)));
}
