// Not compiled here: see README.md.
package org.u2slim

import android.content.Context
import android.graphics.Bitmap
import java.io.FileInputStream
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.nio.channels.FileChannel
import org.tensorflow.lite.Interpreter

/** Cuts the subject out of photos with a net of assets/, from one thread at a time. */
class Cutter(context: Context, file: String = "net.tflite") : AutoCloseable {
    private val net: Interpreter
    private val height: Int
    private val width: Int

    init {
        val mapped = context.assets.openFd(file).use { asset ->
            FileInputStream(asset.fileDescriptor).channel
                .map(FileChannel.MapMode.READ_ONLY, asset.startOffset, asset.declaredLength)
        }
        net = Interpreter(mapped, Interpreter.Options().apply { numThreads = 4 })
        val shape = net.getInputTensor(0).shape() // (1, height, width, 3)
        height = shape[1]
        width = shape[2]
    }

    /** The photo with its subject opaque and all else transparent. It must be ARGB_8888 and upright. */
    fun cut(photo: Bitmap): Bitmap {
        val small = Bitmap.createScaledBitmap(photo, width, height, true)
        val input = ByteBuffer.allocateDirect(4 * 3 * width * height).order(ByteOrder.nativeOrder())
        val pixels = IntArray(width * height)
        small.getPixels(pixels, 0, width, 0, 0, width, height)
        for (pixel in pixels) { // red, green, blue, 0..255: the net normalises by itself
            input.putFloat((pixel shr 16 and 255).toFloat())
            input.putFloat((pixel shr 8 and 255).toFloat())
            input.putFloat((pixel and 255).toFloat())
        }
        val output = ByteBuffer.allocateDirect(4 * width * height).order(ByteOrder.nativeOrder())
        net.run(input.rewind(), output)
        val mask = FloatArray(width * height).also { output.rewind(); output.asFloatBuffer().get(it) }
        return withAlpha(photo, stretched(mask))
    }

    /** To 0..1, as u2slim cut does, unless the net is sure of nothing: then there is no subject. */
    private fun stretched(mask: FloatArray): FloatArray {
        val low = mask.min()
        val high = mask.max()
        if (high < 0.3f) return FloatArray(mask.size)
        return FloatArray(mask.size) { (mask[it] - low) / (high - low + 1e-6f) }
    }

    private fun withAlpha(photo: Bitmap, mask: FloatArray): Bitmap {
        val gray = IntArray(mask.size) { (mask[it] * 255 + 0.5f).toInt() shl 24 }
        val small = Bitmap.createBitmap(gray, width, height, Bitmap.Config.ARGB_8888)
        val alpha = Bitmap.createScaledBitmap(small, photo.width, photo.height, true)
        val result = photo.copy(Bitmap.Config.ARGB_8888, true)
        result.setHasAlpha(true)
        val row = IntArray(photo.width)
        val above = IntArray(photo.width)
        for (y in 0 until photo.height) {
            result.getPixels(row, 0, photo.width, 0, y, photo.width, 1)
            alpha.getPixels(above, 0, photo.width, 0, y, photo.width, 1)
            for (x in row.indices) row[x] = (row[x] and 0xFFFFFF) or (above[x] and 0xFF.shl(24))
            result.setPixels(row, 0, photo.width, 0, y, photo.width, 1)
        }
        return result
    }

    override fun close() = net.close()
}
