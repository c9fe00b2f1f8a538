import {
  doesSomething,
  type PolicyEntry,
  policyEntrySchema,
  policyMatchDefaults,
  policyProblems,
  inspectedLengthMin,
} from '@sallyport/schema';
import type { PolicyRow } from './inspection.tables.ts';

/** A policy as nodes receive it. Equal rows give equal entries. */
export function policyEntry(
  row: Pick<
    PolicyRow,
    'id' | 'match' | 'rules' | 'inspectedLengthMax' | 'onTooLarge' | 'webhookIds' | 'webhookBudgetMs' | 'capture'
  >,
  mode: PolicyEntry['mode'],
): PolicyEntry {
  const { match, rules } = row;
  return {
    id: row.id,
    mode,
    match: {
      ...match,
      serverIds: match.serverIds.toSorted(),
      tools: match.tools.toSorted(),
      prompts: match.prompts.toSorted(),
      resources: match.resources.toSorted(),
      directions: match.directions.toSorted(),
      principalIds: match.principalIds.toSorted(),
      groupIds: match.groupIds.toSorted(),
    },
    rules: [...rules],
    inspectedLengthMax: row.inspectedLengthMax,
    onTooLarge: row.onTooLarge,
    ...(row.webhookIds.length === 0 ? {} : { webhookIds: [...row.webhookIds] }),
    ...(row.webhookBudgetMs === null ? {} : { webhookBudgetMs: row.webhookBudgetMs }),
    ...(row.capture === null
      ? {}
      : { capture: { directions: [...row.capture.directions], bytesMax: row.capture.bytesMax } }),
  };
}

export interface CompiledPolicyRow {
  readonly entry: PolicyEntry;
  readonly problems: readonly { readonly path: string; readonly message: string }[];
}

/**
 * The entry of a row that acts or looks, or undefined where it is off. One that cannot be published as it stands lets
 * nothing through of what it is about, where it acts; a look that cannot be had is left out.
 */
export function compilePolicyRow(row: PolicyRow): CompiledPolicyRow | undefined {
  const { mode } = row;
  if (mode === 'off') return undefined;
  const parsed = policyEntrySchema.safeParse(unchecked(() => policyEntry(row, mode)));
  const problems = parsed.success
    ? policyProblems(parsed.data)
    : parsed.error.issues.map(({ path, message }) => ({ path: path.join('.'), message }));
  const does = parsed.success && doesSomething(parsed.data);
  if (does && problems.length === 0) return { entry: parsed.data, problems };
  const found = problems.length > 0 ? problems : [{ path: 'rules', message: 'has none, no webhooks and no capture' }];
  const match = policyEntrySchema.shape.match.safeParse(row.match);
  const isReadable = match.success && policyProblems({ match: match.data, rules: [] }).length === 0;
  const entry: PolicyEntry = {
    id: row.id,
    mode,
    match: isReadable ? match.data : policyMatchDefaults,
    rules: [],
    inspectedLengthMax: inspectedLengthMin,
    onTooLarge: 'block',
  };
  return { entry, problems: found };
}

/** Rows are what the database holds, whatever their type says. */
function unchecked(read: () => unknown): unknown {
  try {
    return read();
  } catch {
    return undefined;
  }
}
