export {
  type EmbeddedPostgres,
  type EmbeddedPostgresOptions,
  startEmbeddedPostgres,
} from './start/embedded-postgres.ts';
export { freePort } from './start/ports.ts';
