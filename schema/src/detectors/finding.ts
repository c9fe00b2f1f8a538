/** The families of built-in checks over text. */
export const detectorNames = ['hiddenText', 'secret', 'personalData', 'injection', 'link'] as const;
export type DetectorName = (typeof detectorNames)[number];

/** In ascending order. */
export const findingSeverities = ['low', 'medium', 'high', 'critical'] as const;
export type FindingSeverity = (typeof findingSeverities)[number];

/** Something a detector saw in a text. It tells where and of what kind, never the text itself, which may be a secret. */
export interface Finding {
  readonly detector: DetectorName;
  /** What it is, such as `githubToken`; stable, so that rules and statistics can name it. */
  readonly category: string;
  readonly severity: FindingSeverity;
  /** UTF-16 code units from the start of the inspected text; `end` is exclusive. */
  readonly start: number;
  readonly end: number;
}

/** Findings by place, the worse first where they begin alike, without those that lie inside a worse one of their family. */
export function orderedFindings(findings: readonly Finding[]): Finding[] {
  const rank = (finding: Finding): number => findingSeverities.indexOf(finding.severity);
  const sorted = [...findings].sort((a, b) => a.start - b.start || rank(b) - rank(a) || b.end - a.end);
  const kept: Finding[] = [];
  const reach = new Map<DetectorName, Finding>();
  for (const finding of sorted) {
    const before = reach.get(finding.detector);
    if (before !== undefined && finding.end <= before.end && rank(finding) <= rank(before)) continue;
    reach.set(finding.detector, finding);
    kept.push(finding);
  }
  return kept;
}

/**
 * Findings by place, of which none overlap: of two that do, the one whose kind was looked for first stays. `rank` gives
 * that order; lower is first.
 */
export function withoutOverlaps<T extends Finding>(findings: readonly T[], rank: (finding: T) => number): T[] {
  const kept: T[] = [];
  for (const finding of [...findings].sort((a, b) => a.start - b.start || rank(a) - rank(b))) {
    const last = kept.at(-1);
    if (last === undefined || finding.start >= last.end) kept.push(finding);
    else if (rank(finding) < rank(last)) kept[kept.length - 1] = finding;
  }
  return kept;
}
