import { type DetectorName, type Finding, orderedFindings } from './finding.ts';
import { findHiddenText, hiddenTextCategories } from './hidden-text.ts';
import { findInjection, injectionCategories, type TextKind } from './injection.ts';
import { findLinks, linkCategories } from './links.ts';
import { findPersonalData, personalDataCategories } from './personal-data.ts';
import { Readings } from './readings.ts';
import type { TextSigns } from './text-signs.ts';
import { findSecrets, secretCategories } from './secrets.ts';

/** Raised where the same text may be found to hold something else: verdicts name it. */
export const detectorsVersion = '4';

const detectors: Readonly<Record<DetectorName, (text: string, kind: TextKind, readings: Readings) => Finding[]>> = {
  hiddenText: (text, _kind, readings) => findHiddenText(text, readings.signs),
  secret: (text, _kind, readings) => throughDisguise(text, findSecrets, readings),
  personalData: (text, _kind, readings) => throughDisguise(text, findPersonalData, readings),
  injection: findInjection,
  link: (text, _kind, readings) => throughDisguise(text, findLinks, readings),
};

/** The kinds of what each finds. */
export const detectorCategories: Readonly<Record<DetectorName, readonly string[]>> = {
  hiddenText: hiddenTextCategories,
  secret: secretCategories,
  personalData: personalDataCategories,
  injection: injectionCategories,
  link: linkCategories,
};

/**
 * A value is found also where invisible characters part it, where it stands in other letters, escaped or encoded. Its
 * place is that of all that spells it.
 */
function throughDisguise(
  text: string,
  find: (text: string, signs?: TextSigns) => Finding[],
  readings: Readings,
): Finding[] {
  const findings = find(text, readings.signs);
  for (const reading of readings.all) {
    for (const finding of find(reading.text)) {
      // As it is written it was found already.
      if (reading.changedShare(finding.start, finding.end) === 0) continue;
      findings.push({ ...finding, ...reading.placeOf(finding.start, finding.end) });
    }
  }
  return findings;
}

/** Runs one detector; whoever gives another runs it in its time or place. */
export type RunDetector = (name: DetectorName, run: () => Finding[]) => Finding[];

/**
 * What the named detectors see in a text, by place. A pure function: linear in the length of the text, without state.
 * A text in several pieces (content items, events of a stream) is to be given as one.
 */
export function inspectText(
  text: string,
  kind: TextKind,
  names: readonly DetectorName[],
  runDetector: RunDetector = (_name, run) => run(),
): Finding[] {
  const readings = new Readings(text);
  return orderedFindings(names.flatMap((name) => runDetector(name, () => detectors[name](text, kind, readings))));
}
