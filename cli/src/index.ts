export {
  type AuditFinding,
  type AuditFindingCode,
  type AuditVerification,
  describeVerification,
  verifyAuditExport,
} from './audit-verify.ts';
export {
  type EmbeddedPostgres,
  type EmbeddedPostgresOptions,
  startEmbeddedPostgres,
} from './start/embedded-postgres.ts';
export { createGraphqlClient, type GraphqlClient, GraphqlError } from './start/graphql-client.ts';
export { freePort } from './start/ports.ts';
export { type RoundRobinEntry, startRoundRobinEntry } from './start/round-robin-entry.ts';
