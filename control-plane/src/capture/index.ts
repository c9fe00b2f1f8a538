export { openDatabase } from '../database/client.ts';
export { PayloadIngestService } from './payload-ingest.service.ts';
export { PayloadStore } from './payload-store.service.ts';
