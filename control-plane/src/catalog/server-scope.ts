import { type SQL, sql } from 'drizzle-orm';
import { isPermitted, type ServerScope } from '../access/rights.ts';
import type { Context } from '../context.ts';
import type { Reader, Transaction } from '../database/client.ts';
import { isUuid } from '../database/mutation.ts';
import { Violations } from '../database/violations.ts';
import { servers } from './catalog.tables.ts';
import { checkLabels, type Label, labelsOf, type ServerFields } from './server-form.ts';

/** Restricts a query over `servers` to those that an actor may see; undefined where he may see all. */
export function inScope(scope: ServerScope): SQL | undefined {
  if (scope === 'all') return undefined;
  const groups = `{${scope.ownerGroupIds.join(',')}}`;
  const parts = [
    sql`${servers.ownerGroupId} = any (${groups}::uuid[])`,
    ...scope.selectors.map((selector) => sql`${servers.labels} @> ${JSON.stringify(selector)}::text::jsonb`),
  ];
  return sql`(${sql.join(parts, sql` or `)})`;
}

/** Servers that carry all of the labels. */
export function carrying(labels: readonly Label[]): SQL | undefined {
  if (labels.length === 0) return undefined;
  const found = new Violations();
  checkLabels(found, 'labels', labels);
  found.assertNone();
  return sql`${servers.labels} @> ${JSON.stringify(labelsOf(labels))}::text::jsonb`;
}

/** Who may write only his own servers, or those with some labels, makes no others and gives none away. */
export function checkStaysWritable(ctx: Context, found: Violations, path: string, fields: ServerFields): void {
  if (isPermitted(ctx.actor, 'server:write', fields)) return;
  const scope = ctx.serverScope('server:write');
  const selectors = scope === 'all' ? [] : scope.selectors;
  for (const selector of selectors) {
    const labels = Object.entries(selector).map(([key, value]) => `${key}=${value}`);
    found.add(`${path}.labels`, `must have ${labels.join(' and ')}: you may write only servers with these labels`);
  }
  if (selectors.length > 0 && !ctx.actor.permissions.has('server:writeOwn')) return;
  found.add(`${path}.ownerGroupId`, 'must be a group that you belong to: you may write only servers of your groups');
}

export async function checkOwnerGroup(
  deps: { readonly groupExists: (reader: Reader, id: string) => Promise<boolean> },
  tx: Transaction,
  found: Violations,
  path: string,
  groupId: string | null,
): Promise<void> {
  if (groupId === null || (isUuid(groupId) && (await deps.groupExists(tx, groupId)))) return;
  found.add(`${path}.ownerGroupId`, 'there is no such group');
}
