// A celery-node worker: node work.js URL QUEUE
const celery = require("celery-node");

const [url, queue] = process.argv.slice(2);
const worker = celery.createWorker(url, url, queue);
worker.register("node.add", (a, b) => a + b);
worker.register("node.echo", (value) => value);
worker.register("node.named", (kwargs) => kwargs.x);
worker.register("node.fail", () => {
  throw new Error("from node");
});
worker.isReady().then(() => console.log("node worker is ready"));
worker.start();
