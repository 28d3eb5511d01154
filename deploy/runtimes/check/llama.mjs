// Greedy continuations by llama.cpp, through node-llama-cpp: reads one JSON document from stdin,
// {"model", "adapter" or null, "prompts": [[token]], "count", "stop"}, and writes the continuations,
// [[token]], to stdout. Everything in F32 that can be, on the CPU.
import {createRequire} from "node:module";
import {pathToFileURL} from "node:url";
import {readFileSync} from "node:fs";

// The package is wherever it was installed, named by the first argument.
const require = createRequire(pathToFileURL(process.argv[2] + "/"));
const {getLlama, LlamaLogLevel} = await import(
    pathToFileURL(require.resolve("node-llama-cpp")).href
);
const asked = JSON.parse(readFileSync(0, "utf8"));
// One thread: those of llama.cpp wait for each other by spinning, which a busy machine pays for.
const llama = await getLlama({
    gpu: false, build: "never", logLevel: LlamaLogLevel.error, maxThreads: 1,
});
const model = await llama.loadModel({modelPath: asked.model, gpuLayers: 0});
const context = await model.createContext({
    contextSize: 512,
    threads: 1,
    experimentalKvCacheKeyType: "F32",
    experimentalKvCacheValueType: "F32",
    ...(asked.adapter ? {lora: {adapters: [{filePath: asked.adapter, scale: 1}]}} : {}),
});
const sequence = context.getSequence();
const answers = [];
for (const prompt of asked.prompts) {
    await sequence.clearHistory();
    const answer = [];
    // The first token of a model that has one of its own for the end of a turn is generated too.
    const options = {temperature: 0, yieldEogToken: true};
    for await (const token of sequence.evaluate(prompt, options)) {
        answer.push(token);
        if (token === asked.stop || answer.length === asked.count) break;
    }
    answers.push(answer);
}
process.stdout.write(JSON.stringify(answers));
process.exit(0);
