export { buildFromDocuments, type BuiltConfiguration, buildRuntime, type BuildResult } from './build-runtime.ts';
export type { Runtime, ServerRuntime } from './runtime.ts';
export { RuntimeStore } from './runtime-store.ts';
export { SyncClient, type SyncClientOptions, type Signer, type Watermark } from './sync-client.ts';
