import type { GrantEntry, GrantSubject, GrantTerms } from '@sallyport/schema';
import type { GrantRow } from './access.tables.ts';

/** Whom a row is for, or undefined where it names nobody. */
export function subjectOf(row: GrantRow): GrantSubject | undefined {
  switch (row.subjectKind) {
    case 'everyone':
      return { kind: 'everyone' };
    case 'group':
      return row.subjectGroupId === null ? undefined : { kind: 'group', id: row.subjectGroupId };
    case 'user':
    case 'serviceAccount':
      return row.subjectPrincipalId === null ? undefined : { kind: row.subjectKind, id: row.subjectPrincipalId };
    default:
      return row.subjectKind satisfies never;
  }
}

/** What a grant says, apart from whom it is for and when: what `grantProblems` looks at. */
export function termsOf(row: GrantTerms): GrantTerms {
  return {
    effect: row.effect,
    tools: row.tools.toSorted(),
    prompts: row.prompts.toSorted(),
    resources: row.resources.toSorted(),
    limits: row.limits,
    when: row.when,
    whenArguments: row.whenArguments,
    configStalenessMaxMs: row.configStalenessMaxMs,
  };
}

/** The grant as decisions see it: on nodes, and where access is explained. Equal rows give equal entries. */
export function grantEntry(row: GrantRow, subject: GrantSubject): GrantEntry {
  return {
    id: row.id,
    subject,
    mode: row.mode,
    ...termsOf(row),
    notBefore: row.notBefore?.getTime() ?? null,
    notAfter: row.notAfter?.getTime() ?? null,
  };
}
