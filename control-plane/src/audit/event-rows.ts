import type { AuditRecord, ClosedRecord, OpenedRecord, ShadowDecision, Verdict } from '@sallyport/schema';
import { storableText } from './storable-text.ts';

/** Columns of audit_events with their types, as one exchange fills them; the first ones identify the row. */
const columns = {
  time: 'timestamptz',
  id: 'text',
  kind: 'text',
  node_id: 'text',
  epoch: 'text',
  principal_id: 'text',
  principal_kind: 'text',
  principal_name: 'text',
  key_id: 'text',
  client_id: 'text',
  token_id: 'text',
  client_address: 'text',
  client_user_agent: 'text',
  client_info: 'text',
  server_id: 'text',
  server_slug: 'text',
  http_method: 'text',
  method: 'text',
  target_kind: 'text',
  target_name: 'text',
  protocol_revision: 'text',
  decision_effect: 'text',
  decision_reason: 'text',
  grant_ids: 'text[]',
  shadow: 'jsonb',
  history_id: 'text',
  config_revision: 'bigint',
  params_digest: 'text',
  request_bytes: 'bigint',
  trace_id: 'text',
  credential_id: 'text',
  credential_mode: 'text',
  credential_issuer: 'text',
  capture: 'jsonb',
  outcome: 'text',
  status: 'integer',
  rpc_error_code: 'bigint',
  error_code: 'text',
  response_bytes: 'bigint',
  duration_ms: 'double precision',
  first_byte_ms: 'double precision',
  upstream_ms: 'double precision',
  upstream_requests: 'text[]',
  verdicts: 'jsonb',
} as const;
type Column = keyof typeof columns;
type Value = string | number | null | readonly string[] | ShadowDecision | readonly Verdict[] | OpenedRecord['capture'];

export type EventRow = { readonly time: string; readonly id: string } & Partial<Record<Column, Value>>;

const names = Object.keys(columns) as Column[];
const identity: ReadonlySet<string> = new Set(['time', 'id', 'kind', 'node_id', 'epoch']);

/** Of what an exchange closes with, the stored value gives way only while the outcome is open or unknown. */
function assignment(column: Column): string {
  if (column === 'grant_ids') {
    return 'grant_ids = case when e.decision_effect is null then excluded.grant_ids else e.grant_ids end';
  }
  if (column === 'outcome') {
    return `outcome = case when e.outcome is null or e.outcome = 'unknown' then coalesce(excluded.outcome, e.outcome) else e.outcome end`;
  }
  return `${column} = coalesce(e.${column}, excluded.${column})`;
}

/**
 * Inserts rows given as a JSON array ($1), or completes those that are there: `opened` and `closed` of an exchange may
 * come in any order and any number of times. A row of another node or epoch is left alone and not returned.
 */
export const upsertEvents = `
  insert into audit_events as e (${names.join(', ')})
  select ${names.map((name) => (name === 'grant_ids' ? `coalesce(${name}, '{}')` : name)).join(', ')}
  from jsonb_to_recordset($1::text::jsonb) as x(${names.map((name) => `${name} ${columns[name]}`).join(', ')})
  on conflict (time, id) do update set ${names
    .filter((name) => !identity.has(name))
    .map(assignment)
    .join(', ')}
  where e.node_id = excluded.node_id and e.epoch = excluded.epoch
  returning id`;

/** The row a record stands for, or what it adds to one; undefined for records that are no exchange. */
export function eventRow(record: AuditRecord, nodeId: string, epoch: string): EventRow | undefined {
  switch (record.type) {
    case 'opened':
      return { ...identityOf(record, nodeId, epoch), ...requestColumns(record) };
    case 'closed':
      return { ...identityOf(record, nodeId, epoch), ...responseColumns(record) };
    case 'refused':
      return { ...identityOf(record, nodeId, epoch), ...requestColumns(record), ...responseColumns(record) };
    case 'epochOpened':
    case 'shed':
    case 'control':
      return undefined;
    default:
      return record satisfies never;
  }
}

/** One row for each event: a statement cannot touch a row twice. */
export function mergeRows(rows: readonly EventRow[]): readonly EventRow[] {
  const merged = new Map<string, EventRow>();
  for (const row of rows) {
    const key = `${row.time} ${row.id}`;
    merged.set(key, { ...merged.get(key), ...row });
  }
  return [...merged.values()];
}

function identityOf(
  record: { readonly time: number; readonly eventId: string },
  nodeId: string,
  epoch: string,
): EventRow {
  const time = new Date(record.time).toISOString();
  return { time, id: storableText(record.eventId), kind: 'exchange', node_id: nodeId, epoch };
}

function text(value: string | null | undefined): string | null {
  return value === null || value === undefined ? null : storableText(value);
}

function shadowOf({ shadow }: OpenedRecord['decision']): ShadowDecision | null {
  return shadow === null ? null : { effect: shadow.effect, grantIds: shadow.grantIds.map(storableText) };
}

function captureOf({ capture }: Pick<OpenedRecord, 'capture'>): OpenedRecord['capture'] {
  return capture === null ? null : { request: text(capture.request), response: text(capture.response) };
}

function requestColumns(record: Omit<OpenedRecord, 'type'>): Partial<EventRow> {
  return {
    principal_id: text(record.principal?.id),
    principal_kind: record.principal?.kind ?? null,
    principal_name: text(record.principal?.name),
    key_id: text(record.principal?.keyId),
    client_id: text(record.principal?.clientId),
    token_id: text(record.principal?.tokenId),
    client_address: text(record.client.address),
    client_user_agent: text(record.client.userAgent),
    client_info: text(record.client.info),
    server_id: text(record.server?.id),
    server_slug: text(record.server?.slug),
    http_method: record.httpMethod === '' ? null : text(record.httpMethod),
    method: text(record.method),
    target_kind: record.target?.kind ?? null,
    target_name: text(record.target?.name),
    protocol_revision: text(record.protocolRevision),
    decision_effect: record.decision.effect,
    decision_reason: text(record.decision.reason),
    grant_ids: record.decision.grantIds.map(storableText),
    shadow: shadowOf(record.decision),
    history_id: text(record.config?.historyId),
    config_revision: record.config?.revision ?? null,
    params_digest: text(record.paramsDigest),
    request_bytes: record.requestBytes,
    trace_id: text(record.traceId),
    credential_id: text(record.credential?.id),
    credential_mode: record.credential?.mode ?? null,
    credential_issuer: text(record.credential?.issuer),
    capture: captureOf(record),
  };
}

function responseColumns(record: Omit<ClosedRecord, 'type'>): Partial<EventRow> {
  return {
    outcome: record.outcome,
    status: record.status,
    rpc_error_code: record.rpcErrorCode,
    error_code: text(record.errorCode),
    response_bytes: record.responseBytes,
    duration_ms: record.durationMs,
    first_byte_ms: record.firstByteMs,
    upstream_ms: record.upstreamMs,
    upstream_requests: record.upstreamRequests?.map(storableText) ?? null,
    verdicts: record.verdicts?.map(storableVerdict) ?? null,
  };
}

function storableVerdict(verdict: Verdict): Verdict {
  return {
    ...verdict,
    policyId: text(verdict.policyId),
    ...(verdict.webhookId === undefined ? {} : { webhookId: storableText(verdict.webhookId) }),
    version: storableText(verdict.version),
    reason: storableText(verdict.reason),
    places: verdict.places.map((place) => ({ ...place, path: storableText(place.path) })),
  };
}
