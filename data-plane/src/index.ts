export { ExchangeSlots } from './pipeline/admit.ts';
export { DecisionCache, decisionCacheBytesMax } from './pipeline/decisions.ts';
export { Pipeline, type PipelineOptions } from './pipeline/pipeline.ts';
export { buildFromDocuments } from './runtime/build-runtime.ts';
export { RuntimeStore } from './runtime/runtime-store.ts';
export { Listener, type ListenerLimits } from './server.ts';
export { Connections } from './upstream/connections.ts';
